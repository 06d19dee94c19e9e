#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pockui/array.hpp"
#include "pockui/errors.hpp"

namespace pockui {

struct Manifest;

/// What is done about a step that is not finite: raise, or leave it out and go on. Either way nothing of it
/// reaches the state.
enum class OnNonfinite { error, skip };

struct Options {
  /// CPU threads; without it, OpenVINO's own choice.
  std::optional<int> threads{};
  /// Of dropout; the same seed gives the same masks on every target.
  std::int64_t seed = 0;
  OnNonfinite on_nonfinite = OnNonfinite::error;
  /// Let OpenVINO generate no kernels of its own: tens of megabytes less, and last bits may differ.
  bool low_memory = false;
};

struct StepResult {
  double loss;         ///< Before the update; NaN for a batch that holds NaN.
  std::int64_t step;   ///< How many steps have been taken, this one included.
  double duration_ms;  ///< Wall clock, checking the batch included.
  bool skipped;        ///< It was not finite, and all state is as it was before.
};

struct Evaluation {
  double metric;               ///< The mean of `values`.
  std::vector<double> values;  ///< Of each sample, in the order of the data.
};

/// Gives one batch after the other, and nothing at the end.
using NextBatch = std::function<std::optional<Arrays>()>;

/// Trains one artefact that was compiled for OpenVINO, on the CPU. It holds the state; a batch is a value.
///
/// One thread uses it at a time.
class Trainer {
 public:
  /// Check an artefact's files and take its initial weights.
  ///
  /// Throws ArtifactError: no artefact, of another version or target, or a damaged file (named).
  static Trainer load(const std::filesystem::path& folder, const Options& options = {});

  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;
  ~Trainer();

  /// One step on one batch of exactly the compiled size; `lr` is the optimizer's own unless given.
  ///
  /// A step that is not finite leaves all state as it was, to the bit. Where that throws, the step was not
  /// taken; where it is skipped, it counts.
  ///
  /// Throws BatchError: the batch does not fit, or `lr` is no finite number >= 0; NonFiniteBatch, a kind of
  /// it: the batch holds NaN or infinite values. NonFiniteLoss: the loss, or the update, is NaN or infinite.
  StepResult step(const Arrays& batch, std::optional<double> lr = {});

  /// The metric over batches, with the current weights, or with their average where the optimizer keeps one.
  /// A batch of fewer samples than the compiled one is filled up, and its values are cut.
  ///
  /// Throws BatchError: there is no batch, or one does not fit.
  Evaluation evaluate(const NextBatch& next);
  Evaluation evaluate(const std::vector<Arrays>& batches);

  /// What the task predicts of a batch of any number of samples, by output; one without a name is
  /// `prediction`.
  ///
  /// Throws ArtifactError: the artefact has no prediction. BatchError: the batch does not fit.
  Arrays predict(const Arrays& batch);

  /// Write a checkpoint, whole or not at all, that every PockUI runtime continues from.
  ///
  /// Throws ArtifactError: it cannot be written, or another file is there. NonFiniteLoss: the artefact came
  /// with NaN.
  void save(const std::filesystem::path& path) const;

  /// Continue from a checkpoint, as if this trainer had taken its steps.
  ///
  /// Throws ArtifactError: missing, damaged, or made for another artefact; the state stays as it was.
  void restore(const std::filesystem::path& path);

  /// Back to the artefact's initial weights and step 0.
  void reset();

  std::int64_t steps() const noexcept;
  std::int64_t skipped() const noexcept;
  std::int64_t seed() const noexcept;
  const Manifest& manifest() const noexcept;

 private:
  class Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Predicts with an artefact's or a checkpoint's weights, and loads no training step.
///
/// One thread uses it at a time.
class Predictor {
 public:
  /// `checkpoint`: what `Trainer::save` wrote; without it, the artefact's initial weights.
  ///
  /// Throws ArtifactError: as Trainer::load and Trainer::restore; or the artefact has no prediction.
  static Predictor load(const std::filesystem::path& folder,
                        const std::optional<std::filesystem::path>& checkpoint = {},
                        const Options& options = {});

  Predictor(Predictor&&) noexcept;
  Predictor& operator=(Predictor&&) noexcept;
  ~Predictor();

  /// See Trainer::predict; the answers are the same to the bit.
  Arrays predict(const Arrays& batch);

  const Manifest& manifest() const noexcept;

 private:
  class Impl;
  explicit Predictor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pockui
