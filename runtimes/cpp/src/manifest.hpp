#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pockui/array.hpp"

namespace pockui {

/// One input or output of a graph, see docs/artefact.md.
struct Slot {
  std::string role, fqn, key;
  Shape shape;
  DType dtype;
  bool trained = false, changes = false;

  bool is_state() const { return trained || changes || role == "opt_state"; }

  /// What it is called in graphs and files.
  std::string name() const;

  /// Of a state slot: the output that holds its next value.
  std::string next_name() const;
};

struct GraphSpec {
  std::vector<Slot> inputs, outputs;

  std::vector<Slot> state() const;
  bool takes(const std::string& name) const;
};

/// What a batch entry is.
struct Entry {
  std::string name;
  DType dtype;
  Shape shape;

  bool has_rows(std::size_t samples) const { return !shape.empty() && shape[0] == samples; }
};

using BatchSpec = std::vector<Entry>;

/// What one batch entry, or a part of it, may hold.
struct Limit {
  std::string entry;
  std::int64_t low, high;
  std::vector<std::int64_t> also;
  std::string why, remedy;
  bool whole = true;                                // else one of:
  std::vector<std::array<std::int64_t, 3>> slices;  // start, stop and step of each dimension
  std::vector<std::size_t> elements;                // flat numbers
  bool reached = false, descending = false, ascending = false;
};

/// How a batch of a graph, and its result, are checked.
struct Checks {
  std::vector<Limit> limits;
  std::vector<std::string> guards, integers;
  /// Entries that may hold NaN and infinite values; without a list, all may hold infinite ones.
  std::optional<std::vector<std::string>> nonfinite_entries;
};

/// What the task predicts of batches of one size.
struct Prediction {
  std::optional<std::size_t> samples;  // none: the outputs have no row for each sample
  GraphSpec graph;
  BatchSpec batch;
  Checks checks;
  bool samples_apart = true;

  std::string stem() const { return samples ? "predict-" + std::to_string(*samples) : "predict"; }
};

struct FileSpec {
  std::string sha256;
  std::uint64_t bytes;
};

/// What an artefact holds, see docs/artefact.md.
struct Manifest {
  std::string task, fingerprint, computation, target, precision, frozen_weights;
  BatchSpec batch;
  GraphSpec train, eval;
  Checks train_checks, eval_checks;
  std::vector<Prediction> predict;
  std::optional<double> lr;
  std::optional<std::vector<std::string>> telling_state;
  bool samples_apart = true;
  std::map<std::string, FileSpec> files;

  /// Samples of a training batch.
  std::size_t samples() const { return eval.outputs.at(0).shape.at(0); }
};

/// Read `folder/manifest.json`.
///
/// Throws ArtifactError: no such folder, no artefact, another schema, or an invalid manifest.
Manifest read_manifest(const std::filesystem::path& folder);

/// Compare files of the folder with the manifest.
///
/// Throws ArtifactError: naming each that is missing, changed, not listed, or that lies elsewhere.
void verify_files(const std::filesystem::path& folder, const Manifest& manifest,
                  const std::vector<std::string>& names);

/// The entries of a batch that have a row for each sample, whatever its size.
std::vector<std::string> rows_of(const std::vector<Prediction>& sizes);

}  // namespace pockui
