#pragma once

#include <limits>
#include <stdexcept>
#include <string>

namespace pockui {

/// Base of every error that this library raises on purpose: what happened, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An artefact or a checkpoint is missing, damaged, or made for something else.
class ArtifactError : public Error {
 public:
  using Error::Error;
};

/// A batch does not have the names, shapes or dtypes that a graph was compiled for, or values it has no room
/// for.
class BatchError : public Error {
 public:
  using Error::Error;
};

/// A batch holds NaN or infinite values.
class NonFiniteBatch : public BatchError {
 public:
  using BatchError::BatchError;
};

/// The loss, or what a step would leave in the weights, is NaN or infinite. The step was undone.
class NonFiniteLoss : public Error {
 public:
  explicit NonFiniteLoss(const std::string& message, double loss = std::numeric_limits<double>::quiet_NaN())
      : Error(message), loss_(loss) {}

  double loss() const noexcept { return loss_; }

 private:
  double loss_;
};

}  // namespace pockui
