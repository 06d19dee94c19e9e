#pragma once

#include <openvino/runtime/variable_state.hpp>
#include <utility>
#include <vector>

namespace pockui {

/// What a step replaces: the state before it, in the runtime's own memory.
///
/// The CPU plugin keeps each variable in two memories: a step reads one and writes the other, and they change
/// roles at its end. So the state before a step outlives it at no cost. Where the first step shows that it is
/// not so, a copy is made before each later one.
class StateHistory {
 public:
  /// Args: changing: what a step changes.
  explicit StateHistory(std::vector<ov::VariableState> changing) : changing_(std::move(changing)) {}

  void before_step();
  void after_step();

  /// Go back to the state before the last step.
  ///
  /// Throws ArtifactError: the first step failed, and the runtime wrote over the state before it.
  void undo();

 private:
  std::vector<ov::Tensor> current() const;

  std::vector<ov::VariableState> changing_;
  std::vector<ov::Tensor> old_;
  bool alternates_ = true, lost_ = false;
};

}  // namespace pockui
