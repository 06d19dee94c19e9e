#include "state_history.hpp"

#include <algorithm>

#include "pockui/errors.hpp"

namespace pockui {
namespace {

ov::Tensor copied(const ov::Tensor& tensor) {
  ov::Tensor copy(tensor.get_element_type(), tensor.get_shape());
  tensor.copy_to(copy);
  return copy;
}

}  // namespace

void StateHistory::before_step() {
  old_ = current();
  lost_ = false;
  if (!alternates_) std::transform(old_.begin(), old_.end(), old_.begin(), copied);
}

void StateHistory::after_step() {
  if (!alternates_) return;
  const auto now = current();
  const auto moved = [](const ov::Tensor& old, const ov::Tensor& fresh) {
    return old.data() != fresh.data();
  };
  alternates_ = std::equal(old_.begin(), old_.end(), now.begin(), moved);
  lost_ = !alternates_;
}

void StateHistory::undo() {
  if (lost_) {
    throw ArtifactError(
        "This version of OpenVINO writes over the state before a step, and the first step failed. Go "
        "back with restore() or reset(); from here on a copy is kept.");
  }
  for (std::size_t i = 0; i < old_.size(); ++i) changing_[i].set_state(copied(old_[i]));
}

std::vector<ov::Tensor> StateHistory::current() const {
  std::vector<ov::Tensor> states;
  for (const ov::VariableState& variable : changing_) states.push_back(variable.get_state());
  return states;
}

}  // namespace pockui
