#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "manifest.hpp"
#include "openvino_graph.hpp"
#include "pockui/array.hpp"

namespace pockui {

/// The graphs that read the state and leave it alone, each compiled on first use.
class ForwardGraphs {
 public:
  /// Args: read: the present value of a state slot.
  ForwardGraphs(std::filesystem::path folder, const Manifest& manifest, const Options& options,
                std::function<Array(const Slot&)> read);

  void state_changed() { current_.clear(); }

  /// The metric of each sample of a full batch, which was checked.
  Array evaluate(const Arrays& batch);

  /// What the task predicts of a batch of any size, by output.
  ///
  /// Throws ArtifactError: it predicts nothing. BatchError: the batch does not fit.
  Arrays predict(const Arrays& batch);

 private:
  OpenVinoGraph& run(const std::string& stem, const GraphSpec& spec, const Arrays& batch);
  Arrays predict_rows(const Arrays& batch);
  Arrays predict_one(const Prediction& prediction, const Arrays& batch);
  Arrays checked(const BatchSpec& spec, const Arrays& batch) const;

  std::filesystem::path folder_;
  const Manifest& manifest_;
  Options options_;
  std::function<Array(const Slot&)> read_;
  std::map<std::string, OpenVinoGraph> graphs_;
  std::set<std::string> current_;  // stems of those that hold the state as it is
};

/// Refuse an artefact that predicts nothing. Throws ArtifactError.
void require_predictions(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace pockui
