#include "pockui/trainer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "batch.hpp"
#include "checkpoint.hpp"
#include "dtypes.hpp"
#include "forward.hpp"
#include "manifest.hpp"
#include "openvino_graph.hpp"
#include "step_keys.hpp"
#include "text.hpp"

namespace pockui {
namespace fs = std::filesystem;
namespace {

constexpr int kMostThreads = 4096;
constexpr const char* kPlan = "plan.json";
constexpr const char* kState = "state.safetensors";

void require_threads(const Options& options) {
  if (options.threads && (*options.threads < 1 || *options.threads > kMostThreads)) {
    throw ArtifactError("threads=" + std::to_string(*options.threads) +
                        ": at least one thread is needed, and at most " + std::to_string(kMostThreads) +
                        ". Leave it out for all cores.");
  }
}

/// The manifest of a folder whose files are those that it lists.
Manifest verified_manifest(const fs::path& folder) {
  Manifest manifest = read_manifest(folder);
  std::vector<std::string> names{kPlan, kState};
  for (const auto& file : manifest.files) {
    if (file.first != kPlan && file.first != kState) names.push_back(file.first);
  }
  verify_files(folder, manifest, names);
  return manifest;
}

/// As verified_manifest, for what a prediction is made from.
Manifest verified_for_prediction(const fs::path& folder) {
  Manifest manifest = read_manifest(folder);
  require_predictions(folder, manifest);
  std::vector<std::string> names{kState};
  for (const Prediction& prediction : manifest.predict) {
    for (const std::string& name : files_of_graph(manifest, prediction.stem())) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  verify_files(folder, manifest, names);
  return manifest;
}

/// Names of the state slots that a step gives a new value.
std::vector<std::string> changing_state(const Manifest& manifest) {
  std::vector<std::string> names;
  for (const Slot& slot : manifest.train.state()) {
    const auto& made = manifest.train.outputs;
    const auto is_next = [next = slot.next_name()](const Slot& output) { return output.name() == next; };
    if (std::any_of(made.begin(), made.end(), is_next)) names.push_back(slot.name());
  }
  return names;
}

/// Those of them in which it shows that a step was not finite.
std::vector<std::string> checked_state(const Manifest& manifest) {
  std::vector<std::string> names = changing_state(manifest);
  const auto untold = [&](const std::string& name) {
    const auto state = manifest.train.state();
    const auto slot =
        std::find_if(state.begin(), state.end(), [&](const Slot& s) { return s.name() == name; });
    const auto& telling = manifest.telling_state;
    return slot->dtype != DType::float32 ||
           (telling && std::find(telling->begin(), telling->end(), name) == telling->end());
  };
  names.erase(std::remove_if(names.begin(), names.end(), untold), names.end());
  return names;
}

Array array_of(float value) { return Array::of<float>({}, {value}); }

}  // namespace

class Trainer::Impl {
 public:
  Impl(fs::path folder, const Options& options)
      : folder_(std::move(folder)),
        manifest_(verified_manifest(folder_)),
        train_(folder_, manifest_, "train", manifest_.train, options),
        checked_(checked_state(manifest_)),
        forward_(folder_, manifest_, options, [this](const Slot& slot) { return train_.read(slot); }),
        on_nonfinite_(options.on_nonfinite),
        draws_(manifest_.train.takes("seed")),
        seed_(options.seed) {
    train_.keep_history(changing_state(manifest_));
    reset();
  }

  StepResult step(const Arrays& batch, std::optional<double> lr) {
    const auto start = std::chrono::steady_clock::now();
    const double rate = learning_rate(lr);
    bool skip = false;
    double loss = std::nan("");
    try {
      loss = take_step(batch, rate);
      last_loss_ = loss;
    } catch (const NonFiniteBatch&) {
      if (on_nonfinite_ == OnNonfinite::error) throw;
      skip = true;
    } catch (const NonFiniteLoss& e) {
      if (on_nonfinite_ == OnNonfinite::error) throw;
      loss = e.loss();
      skip = true;
    }
    skipped_ += skip;
    ++steps_;
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    return {loss, steps_, took.count(), skip};
  }

  Evaluation evaluate(const NextBatch& next) {
    const std::size_t samples = manifest_.samples();
    Evaluation evaluation{};
    while (const auto batch = next()) {
      auto [full, count] = pad_batch(manifest_.batch, *batch, samples, manifest_.task);
      if (count < samples && !manifest_.samples_apart) {
        throw BatchError(
            "This batch has " + std::to_string(count) + " samples instead of " + std::to_string(samples) +
            ", and the metric of task " + in_quotes(manifest_.task) +
            " makes a sample's value of others in its batch, so that it cannot be filled up. Evaluate "
            "batches of " +
            std::to_string(samples) + " samples, and leave the last one out.");
      }
      check_limits(full, manifest_.eval_checks.limits, manifest_.task);
      check_finite(full, manifest_.eval_checks, manifest_.task);
      const Array metric = forward_.evaluate(full);
      if (const auto wrong = failed_check(metric, manifest_.eval_checks); !wrong.empty()) {
        throw BatchError("In the evaluation of a batch " + wrong);
      }
      for (std::size_t i = 0; i < count; ++i) evaluation.values.push_back(real_at(metric, i));
    }
    if (evaluation.values.empty()) throw BatchError("There was nothing to evaluate: there are no batches.");
    const double sum = std::accumulate(evaluation.values.begin(), evaluation.values.end(), 0.0);
    evaluation.metric = sum / static_cast<double>(evaluation.values.size());
    return evaluation;
  }

  Arrays predict(const Arrays& batch) { return forward_.predict(batch); }

  void save(const fs::path& path) const {
    save_checkpoint(path, manifest_, steps_, seed_, [this](const Slot& slot) { return train_.read(slot); });
  }

  void restore(const fs::path& path) {
    const Checkpoint checkpoint = load_checkpoint(path, manifest_);
    for (const Slot& slot : manifest_.train.state()) train_.write(slot, checkpoint.state.at(slot.name()));
    restart(checkpoint.step, checkpoint.seed);
  }

  void reset() {
    verify_files(folder_, manifest_, {kState});
    for_each_initial(folder_, manifest_.train.state(),
                     [this](const Slot& slot, const Array& value) { train_.write(slot, value); });
    restart(0, seed_);
  }

  std::int64_t steps() const { return steps_; }
  std::int64_t skipped() const { return skipped_; }
  std::int64_t seed() const { return seed_; }
  const Manifest& manifest() const { return manifest_; }

 private:
  double learning_rate(std::optional<double> given) const {
    if (!given && !manifest_.lr) {
      throw BatchError("The artefact's optimizer has no learning rate of its own: pass one to step().");
    }
    const double rate = given ? *given : *manifest_.lr;
    if (std::isfinite(rate) && rate >= 0) return rate;
    throw BatchError("lr=" + brief(rate) +
                     " is no learning rate: pass a finite number that is not negative.");
  }

  /// The loss of a step that was taken; one that was undone throws.
  double take_step(const Arrays& given, double rate) {
    const Arrays batch = fit_batch(manifest_.batch, given, manifest_.task, "step");
    check_limits(batch, manifest_.train_checks.limits, manifest_.task);
    check_finite(batch, manifest_.train_checks, manifest_.task);
    for (const auto& [name, array] : batch) train_.feed("batch:" + name, array);
    train_.feed("lr", array_of(static_cast<float>(rate)));
    if (draws_) {
      const auto keys = step_keys(seed_, steps_);
      train_.feed("seed", Array::of<float>({keys.size()}, {keys.begin(), keys.end()}));
    }
    forward_.state_changed();
    try {
      train_.step();
      return judged_loss(rate);
    } catch (...) {
      train_.undo();
      throw;
    }
  }

  /// The loss of the step that was just computed, if all that it left is as it should be.
  double judged_loss(double rate) const {
    const auto& outputs = manifest_.train.outputs;
    const auto is_loss = [](const Slot& slot) { return slot.role == "loss"; };
    const Array result = train_.output(*std::find_if(outputs.begin(), outputs.end(), is_loss));
    const double loss = real_at(result, 0);
    const std::string which = "In step " + std::to_string(steps_ + 1);
    if (const auto wrong = failed_check(result, manifest_.train_checks); !wrong.empty()) {
      throw BatchError(which + " " + wrong +
                       " The step was undone: weights and optimizer are as they were before it.");
    }
    const auto bad = std::isfinite(loss) ? train_.nonfinite(checked_) : std::vector<std::string>{};
    if (std::isfinite(loss) && bad.empty()) return loss;
    const std::string what = bad.empty() ? "the loss became " + brief(loss)
                                         : "the update would leave NaN or infinite values in " + listing(bad);
    const std::string before = last_loss_ ? "before: " + brief(*last_loss_) : "the first";
    throw NonFiniteLoss(
        which + " (lr " + brief(rate) + "; loss " + brief(loss) + ", " + before + ") " + what +
            ". The step was undone: weights and optimizer are as they were before it. Look at this "
            "batch or use a lower learning rate, or leave such steps out: OnNonfinite::skip, or "
            "--on-nonfinite skip.",
        loss);
  }

  void restart(std::int64_t steps, std::int64_t seed) {
    steps_ = steps;
    seed_ = seed;
    skipped_ = 0;
    last_loss_.reset();
    forward_.state_changed();
  }

  fs::path folder_;
  Manifest manifest_;
  OpenVinoGraph train_;
  std::vector<std::string> checked_;
  ForwardGraphs forward_;
  OnNonfinite on_nonfinite_;
  bool draws_;
  std::int64_t seed_ = 0, steps_ = 0, skipped_ = 0;
  std::optional<double> last_loss_;
};

Trainer Trainer::load(const fs::path& folder, const Options& options) {
  require_threads(options);
  return Trainer(std::make_unique<Impl>(folder, options));
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;
Trainer::~Trainer() = default;

StepResult Trainer::step(const Arrays& batch, std::optional<double> lr) { return impl_->step(batch, lr); }
Evaluation Trainer::evaluate(const NextBatch& next) { return impl_->evaluate(next); }
Evaluation Trainer::evaluate(const std::vector<Arrays>& batches) {
  return impl_->evaluate([at = batches.begin(), end = batches.end()]() mutable {
    return at == end ? std::nullopt : std::optional(*at++);
  });
}
Arrays Trainer::predict(const Arrays& batch) { return impl_->predict(batch); }
void Trainer::save(const fs::path& path) const { impl_->save(path); }
void Trainer::restore(const fs::path& path) { impl_->restore(path); }
void Trainer::reset() { impl_->reset(); }
std::int64_t Trainer::steps() const noexcept { return impl_->steps(); }
std::int64_t Trainer::skipped() const noexcept { return impl_->skipped(); }
std::int64_t Trainer::seed() const noexcept { return impl_->seed(); }
const Manifest& Trainer::manifest() const noexcept { return impl_->manifest(); }

class Predictor::Impl {
 public:
  Impl(const fs::path& folder, const std::optional<fs::path>& checkpoint, const Options& options)
      : manifest_(verified_for_prediction(folder)),
        forward_(folder, manifest_, options, [this](const Slot& slot) { return state_.at(slot.name()); }) {
    if (checkpoint) {
      state_ = load_checkpoint(*checkpoint, manifest_).state;
    } else {
      for_each_initial(folder, manifest_.predict[0].graph.state(),
                       [this](const Slot& slot, const Array& value) { state_.emplace(slot.name(), value); });
    }
  }

  Arrays predict(const Arrays& batch) { return forward_.predict(batch); }
  const Manifest& manifest() const { return manifest_; }

 private:
  Manifest manifest_;
  Arrays state_;
  ForwardGraphs forward_;
};

Predictor Predictor::load(const fs::path& folder, const std::optional<fs::path>& checkpoint,
                          const Options& options) {
  require_threads(options);
  return Predictor(std::make_unique<Impl>(folder, checkpoint, options));
}

Predictor::Predictor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Predictor::Predictor(Predictor&&) noexcept = default;
Predictor& Predictor::operator=(Predictor&&) noexcept = default;
Predictor::~Predictor() = default;

Arrays Predictor::predict(const Arrays& batch) { return impl_->predict(batch); }
const Manifest& Predictor::manifest() const noexcept { return impl_->manifest(); }

}  // namespace pockui
