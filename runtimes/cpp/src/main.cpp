// `train ARTIFACT --data FILE --steps N`, and `train predict ARTIFACT --data FILE`: see options.cpp.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "checkpoint.hpp"
#include "data_file.hpp"
#include "dtypes.hpp"
#include "files.hpp"
#include "options.hpp"
#include "pockui/trainer.hpp"
#include "text.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t stopped_by = 0;

/// The first signal lets the step end and what was learnt be saved; a second one ends the process.
void stop_on_signals() {
  struct sigaction action{};
  action.sa_handler = [](int signal) { stopped_by = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) sigaction(signal, &action, nullptr);
}

/// Keep one heap, and large blocks out of it, so that each goes back to the system when it is freed.
void keep_heap_small() {
#ifdef __GLIBC__
  constexpr int large_bytes = 1 << 16;
  mallopt(M_MMAP_THRESHOLD, large_bytes);
  mallopt(M_TRIM_THRESHOLD, large_bytes);
  mallopt(M_ARENA_MAX, 1);
#endif
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// The most that this process ever held, on Linux.
std::optional<std::int64_t> peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return std::nullopt;
}

void report_peak(Json& report) {
  if (const auto peak = peak_resident_bytes()) report["peak_rss_bytes"] = *peak;
}

std::string megabytes(const Json& report) {
  return "peak memory of the process " +
         pockui::fixed_point(static_cast<double>(report["peak_rss_bytes"].get<std::int64_t>()) / 1e6, 0) +
         " MB";
}

std::string joined_by_comma(const std::vector<std::string>& parts) {
  std::string text = "done: ";
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i ? ", " : "") + parts[i];
  return text;
}

std::string step_line(const Json& report) {
  const Json& loss = report["loss"];
  return "step " + report["step"].dump() + ": " +
         (loss.is_null() ? "no finite loss" : "loss " + pockui::fixed_point(loss.get<double>(), 4)) + ", " +
         pockui::fixed_point(report["step_ms"].get<double>(), 1) + " ms a step";
}

std::string done_line(const Json& report) {
  std::vector<std::string> parts{report["step"].dump() + " steps"};
  if (report.contains("skipped")) parts[0] += " (" + report["skipped"].dump() + " skipped)";
  if (report.contains("metric")) {
    parts.push_back("metric " + pockui::fixed_point(report["metric"].get<double>(), 4) + " on " +
                    report["samples"].dump() + " samples");
  }
  if (report.contains("peak_rss_bytes")) parts.push_back(megabytes(report));
  if (report.contains("checkpoint")) parts.push_back("saved to " + report["checkpoint"].get<std::string>());
  return joined_by_comma(parts);
}

std::string predicted_line(const Json& report) {
  std::vector<std::string> parts;
  for (const auto& [name, output] : report["outputs"].items()) {
    parts.push_back(name + " " + output["dtype"].get<std::string>() + " " +
                    pockui::to_text(output["shape"].get<pockui::Shape>()));
  }
  const Json& samples = report["batch_samples"];
  parts.push_back(pockui::fixed_point(report["batch_ms"].get<double>(), 1) + " ms a batch" +
                  (samples.is_null() ? "" : " of " + samples.dump()));
  if (report.contains("peak_rss_bytes")) parts.push_back(megabytes(report));
  if (report.contains("written")) parts.push_back("written to " + report["written"].get<std::string>());
  return joined_by_comma(parts);
}

void print(const Json& report, const pockui::CommandLine& line, std::string (*said)(const Json&)) {
  std::cout << (line.json ? report.dump() : said(report)) << std::endl;
}

/// Writes a checkpoint from time to time while it trains.
class Saving {
 public:
  Saving(const pockui::Trainer& trainer, const pockui::CommandLine& line) : trainer_(trainer), line_(line) {
    if (line_.save) pockui::require_replaceable(*line_.save);
  }

  void after_step() {
    const auto& every = line_.save_every;
    const bool due = every.seconds ? Clock::now() - saved_at_ >= std::chrono::seconds(every.number)
                                   : trainer_.steps() - saved_step_ >= every.number;
    if (line_.save && due) save();
  }

  void save() {
    trainer_.save(*line_.save);
    saved_at_ = Clock::now();
    saved_step_ = trainer_.steps();
  }

  /// What the message of a refused step adds: the state is that of the step before it.
  std::string on_refusal(std::int64_t began_at) {
    if (!line_.save || trainer_.steps() == began_at) return "";
    try {
      save();
      return " The state of step " + std::to_string(trainer_.steps()) + " was saved to " +
             line_.save->string() + "; --resume goes on from it.";
    } catch (const pockui::Error& failed) {
      return std::string(" The steps before it are lost: ") + failed.what();
    }
  }

 private:
  const pockui::Trainer& trainer_;
  const pockui::CommandLine& line_;
  Clock::time_point saved_at_ = Clock::now();
  std::int64_t saved_step_ = trainer_.steps();
};

void take_steps(pockui::Trainer& trainer, const pockui::CommandLine& line, Saving& saving) {
  const auto data = pockui::DataFile::for_training(line.data, trainer.manifest());
  std::vector<double> losses, times;
  for (std::int64_t done = 1; done <= line.steps && !stopped_by; ++done) {
    // The step number picks the batch, so a resumed run sees the data a longer run would have seen.
    const auto result = trainer.step(data.batch(static_cast<std::size_t>(trainer.steps())), line.lr);
    if (!result.skipped) losses.push_back(result.loss);
    times.push_back(result.duration_ms);
    if (done % line.every == 0 || done == line.steps || stopped_by) {
      Json report{
          {"event", "step"}, {"step", trainer.steps()}, {"loss", nullptr}, {"step_ms", median(times)}};
      if (!losses.empty()) {
        const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
        report["loss"] = sum / static_cast<double>(losses.size());
      }
      print(report, line, step_line);
      losses.clear();
      times.clear();
    }
    if (!stopped_by && done < line.steps) saving.after_step();
  }
}

pockui::Evaluation evaluated(pockui::Trainer& trainer, const fs::path& path) {
  const auto data = pockui::DataFile::for_training(path, trainer.manifest());
  std::size_t start = 0;
  return trainer.evaluate([&]() -> std::optional<pockui::Arrays> {
    if (start >= data.samples()) return std::nullopt;
    return data.samples_from(std::exchange(start, start + data.batch_size()));
  });
}

void train(const pockui::CommandLine& line) {
  auto trainer = pockui::Trainer::load(line.artifact, line.options);
  if (line.resume) trainer.restore(*line.resume);
  if (line.eval) pockui::DataFile::for_training(*line.eval, trainer.manifest());  // refused before any step
  const std::int64_t began_at = trainer.steps();
  Saving saving(trainer, line);
  try {
    take_steps(trainer, line, saving);
  } catch (const pockui::BatchError& e) {
    throw pockui::BatchError(e.what() + saving.on_refusal(began_at));
  } catch (const pockui::NonFiniteLoss& e) {
    throw pockui::NonFiniteLoss(e.what() + saving.on_refusal(began_at), e.loss());
  }
  Json report{{"event", "done"}, {"step", trainer.steps()}};
  if (trainer.skipped()) report["skipped"] = trainer.skipped();
  // A run that was stopped before its first step leaves an older checkpoint alone.
  if (line.save && (trainer.steps() > began_at || !stopped_by)) {
    saving.save();
    report["checkpoint"] = fs::absolute(*line.save).string();
  }
  if (line.eval && !stopped_by) {
    const auto evaluation = evaluated(trainer, *line.eval);
    report["metric"] = evaluation.metric;
    report["samples"] = evaluation.values.size();
  }
  report_peak(report);
  print(report, line, done_line);
}

/// Write an npz file, unless what is there is something else.
void write_answers(const fs::path& path, const pockui::Arrays& answers) {
  try {
    if (fs::exists(path) && !(fs::is_regular_file(path) && fs::file_size(path) == 0)) {
      const pockui::InputFile there(path);
      std::string start(2, '\0');
      if (there.size() >= 2) there.read(0, start.data(), 2);
      if (start != "PK") {
        throw pockui::ArtifactError(path.string() +
                                    " exists and is no npz file, so it is not replaced. Choose "
                                    "another place, or move it away.");
      }
    }
    pockui::write_npz(path, answers);
  } catch (const pockui::FileError& e) {
    throw pockui::ArtifactError("Cannot write " + path.string() + ": " + e.what() +
                                ". Choose another place, or make room.");
  }
}

void predict(const pockui::CommandLine& line) {
  auto predictor = pockui::Predictor::load(line.artifact, line.checkpoint, line.options);
  const auto data = pockui::DataFile::for_prediction(line.data, predictor.manifest());
  if (line.out && fs::exists(*line.out) && fs::equivalent(*line.out, line.data)) {
    throw pockui::BatchError(line.out->string() + " is the data itself. Name another file for --out.");
  }
  std::map<std::string, std::vector<pockui::Array>> parts;
  std::vector<double> times;
  for (std::size_t start = 0; start < data.samples(); start += data.batch_size()) {
    const auto began = Clock::now();
    for (auto& [name, array] : predictor.predict(data.samples_from(start)))
      parts[name].push_back(std::move(array));
    times.push_back(milliseconds_since(began));
    if (stopped_by) return;
  }
  const auto& size = predictor.manifest().predict.back().samples;
  pockui::Arrays answers;
  Json outputs = Json::object();
  for (auto& [name, arrays] : parts) {
    const auto& answer =
        answers.emplace(name, size ? pockui::joined(arrays) : std::move(arrays[0])).first->second;
    outputs[name] = {{"dtype", pockui::name_of(answer.dtype())}, {"shape", answer.shape()}};
  }
  Json report{
      {"event", "done"}, {"outputs", outputs}, {"batch_ms", median(times)}, {"batch_samples", nullptr}};
  if (size) report["batch_samples"] = *size;
  if (line.out) {
    write_answers(*line.out, answers);
    report["written"] = fs::absolute(*line.out).string();
  }
  report_peak(report);
  print(report, line, predicted_line);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const auto line = pockui::parsed_command_line({arguments + 1, arguments + count});
    if (line.help) {
      std::cout << pockui::kHelp;
      return 0;
    }
    keep_heap_small();
    stop_on_signals();
    line.predict ? predict(line) : train(line);
    return stopped_by ? 128 + stopped_by : 0;
  } catch (const pockui::UsageError& e) {
    std::cerr << "error: " << e.what() << "; train --help lists the options.\n";
  } catch (const pockui::Error& e) {
    std::cerr << "error: " << e.what() << "\n";
  } catch (const fs::filesystem_error& e) {
    std::cerr << "error: " << e.path1().string() << " cannot be used: " << e.code().message()
              << ". Choose another place, or ask for access.\n";
  } catch (const std::bad_alloc&) {
    std::cerr << "error: There is not enough memory.\n";
  } catch (const std::exception& e) {
    std::cerr << "error: a bug of this program: " << e.what() << "\n";
    return 70;
  }
  return 2;
}
