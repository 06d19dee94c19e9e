#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "pockui/array.hpp"
#include "pockui/trainer.hpp"

namespace pockui {

/// One graph of an artefact, compiled by OpenVINO for the CPU, with its only inference request. Its inputs,
/// outputs and state go by slot name; the state lives in the request's variables.
class OpenVinoGraph {
 public:
  /// Args: stem: of the graph's file, which was verified.
  ///
  /// Throws ArtifactError: OpenVINO cannot compile it, or it is not what the manifest says.
  OpenVinoGraph(const std::filesystem::path& folder, const Manifest& manifest, const std::string& stem,
                const GraphSpec& spec, const Options& options);
  ~OpenVinoGraph();

  /// Set an input, if the graph has it.
  void feed(const std::string& name, const Array& value);

  /// Throws ArtifactError.
  void infer();

  /// A copy of what was inferred last.
  Array output(const Slot& slot) const;

  /// A copy of the value of a state slot.
  Array read(const Slot& slot) const;

  void write(const Slot& slot, const Array& value);

  /// From now on, keep the state before a step, of the slots that it changes.
  void keep_history(const std::vector<std::string>& changing);

  /// Take a step: `infer`, after which `undo` leads back to the state before. Throws ArtifactError.
  void step();
  void undo();

  /// Names of those of `checked` in which the last step left NaN or infinite values.
  std::vector<std::string> nonfinite(const std::vector<std::string>& checked) const;

 private:
  class Request;
  std::unique_ptr<Request> request_;
};

/// The files of a graph, and of its constants.
std::vector<std::string> files_of_graph(const Manifest& manifest, const std::string& stem);

}  // namespace pockui
