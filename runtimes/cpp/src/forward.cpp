#include "forward.hpp"

#include <algorithm>
#include <optional>

#include "batch.hpp"
#include "dtypes.hpp"
#include "pockui/errors.hpp"
#include "text.hpp"

namespace pockui {
namespace {

constexpr const char* kUnnamed = "prediction";  // what a single output is called

/// How many samples a batch of these entries has; 0 where they differ.
std::size_t count_samples(const Arrays& batch, const std::vector<std::string>& rows, std::size_t otherwise) {
  std::optional<std::size_t> count;
  for (const std::string& name : rows) {
    const auto at = batch.find(name);
    if (at == batch.end() || at->second.shape().empty()) continue;
    if (count && *count != at->second.shape()[0]) return 0;
    count = at->second.shape()[0];
  }
  return count.value_or(otherwise);
}

BatchSpec resized(BatchSpec spec, const std::vector<std::string>& rows, std::size_t count) {
  for (Entry& entry : spec) {
    if (std::find(rows.begin(), rows.end(), entry.name) != rows.end()) entry.shape[0] = count;
  }
  return spec;
}

/// The smallest compiled size that holds `count` samples, else the largest.
const Prediction& fitting(const std::vector<Prediction>& sizes, std::size_t count) {
  const auto at =
      std::find_if(sizes.begin(), sizes.end(), [&](const Prediction& p) { return *p.samples >= count; });
  return at == sizes.end() ? sizes.back() : *at;
}

std::string compiled_sizes(const std::vector<Prediction>& sizes) {
  std::vector<std::string> said;
  for (const Prediction& p : sizes) said.push_back(std::to_string(*p.samples));
  return listing(said);
}

}  // namespace

ForwardGraphs::ForwardGraphs(std::filesystem::path folder, const Manifest& manifest, const Options& options,
                             std::function<Array(const Slot&)> read)
    : folder_(std::move(folder)), manifest_(manifest), options_(options), read_(std::move(read)) {}

OpenVinoGraph& ForwardGraphs::run(const std::string& stem, const GraphSpec& spec, const Arrays& batch) {
  auto at = graphs_.find(stem);
  if (at == graphs_.end()) {
    at = graphs_.try_emplace(stem, folder_, manifest_, stem, spec, options_).first;
  }
  OpenVinoGraph& graph = at->second;
  if (!current_.count(stem)) {
    for (const Slot& slot : spec.state()) graph.write(slot, read_(slot));
    current_.insert(stem);
  }
  for (const auto& [name, array] : batch) graph.feed("batch:" + name, array);
  graph.infer();
  return graph;
}

Array ForwardGraphs::evaluate(const Arrays& batch) {
  return run("eval", manifest_.eval, batch).output(manifest_.eval.outputs[0]);
}

Arrays ForwardGraphs::predict(const Arrays& batch) {
  require_predictions(folder_, manifest_);
  const auto& sizes = manifest_.predict;
  Arrays wanted;  // entries of a training batch that the prediction does not read may be there
  for (const auto& [name, array] : batch) {
    const auto is_it = [&, &key = name](const Entry& entry) { return entry.name == key; };
    const auto& read = sizes[0].batch;
    const bool reads = std::any_of(read.begin(), read.end(), is_it);
    if (reads || std::none_of(manifest_.batch.begin(), manifest_.batch.end(), is_it))
      wanted.emplace(name, array);
  }
  return sizes[0].samples ? predict_rows(wanted) : predict_one(sizes[0], checked(sizes[0].batch, wanted));
}

Arrays ForwardGraphs::predict_rows(const Arrays& batch) {
  const auto& sizes = manifest_.predict;
  const auto names = rows_of(sizes);
  const std::size_t count = count_samples(batch, names, *sizes.back().samples);
  if (count == 0) {
    throw BatchError(
        "This batch does not fit the prediction of task " + in_quotes(manifest_.task) +
        ": it has no samples, or its entries differ in their number. A batch holds " +
        describe(sizes.back().batch) +
        " in batches of any size, of which these are the compiled ones: " + compiled_sizes(sizes) + ".");
  }
  const Arrays whole = checked(resized(sizes[0].batch, names, count), batch);
  const bool is_compiled = *fitting(sizes, count).samples == count;
  const bool apart =
      std::all_of(sizes.begin(), sizes.end(), [](const Prediction& p) { return p.samples_apart; });
  if (!is_compiled && !apart) {
    throw BatchError(
        "This batch has " + std::to_string(count) + " samples, and what task " + in_quotes(manifest_.task) +
        " predicts of a sample depends on others in its batch, so that it can be neither filled up nor "
        "split. Give batches of " +
        compiled_sizes(sizes) + " samples.");
  }
  std::map<std::string, std::vector<Array>> parts;
  for (std::size_t start = 0; start < count;) {
    const Prediction& size = fitting(sizes, count - start);
    const std::size_t real = std::min(*size.samples, count - start);
    Arrays taken = whole;
    for (const std::string& name : names) taken.at(name) = rows(whole.at(name), start, real);
    for (auto& [name, array] :
         predict_one(size, repeat_last_sample(std::move(taken), names, *size.samples - real))) {
      parts[name].push_back(rows(array, 0, real));
    }
    start += real;
  }
  Arrays found;
  for (const auto& [name, arrays] : parts) found.emplace(name, joined(arrays));
  return found;
}

Arrays ForwardGraphs::predict_one(const Prediction& prediction, const Arrays& batch) {
  check_limits(batch, prediction.checks.limits, manifest_.task);
  const OpenVinoGraph& graph = run(prediction.stem(), prediction.graph, batch);
  const auto& outputs = prediction.graph.outputs;
  if (const auto wrong = failed_check(graph.output(outputs[0]), prediction.checks); !wrong.empty()) {
    throw BatchError("In the prediction of a batch " + wrong);
  }
  Arrays found;
  for (const Slot& slot : outputs) {
    found.emplace(outputs.size() == 1 && slot.fqn.empty() ? kUnnamed : slot.fqn, graph.output(slot));
  }
  return found;
}

Arrays ForwardGraphs::checked(const BatchSpec& spec, const Arrays& batch) const {
  Arrays fitted = fit_batch(spec, batch, manifest_.task, "prediction");
  check_finite(fitted, manifest_.predict[0].checks, manifest_.task);
  return fitted;
}

void require_predictions(const std::filesystem::path& folder, const Manifest& manifest) {
  if (!manifest.predict.empty()) return;
  throw ArtifactError(
      folder.string() + " has no prediction: task " + in_quotes(manifest.task) +
      " was compiled without one. Give the task a function, as in Task(…, predict=lambda model, "
      "batch: model(batch[\"x\"])), and compile it again; a checkpoint goes on with it.");
}

}  // namespace pockui
