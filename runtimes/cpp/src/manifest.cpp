#include "manifest.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "dtypes.hpp"
#include "files.hpp"
#include "pockui/errors.hpp"
#include "text.hpp"

namespace pockui {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;  // the entries of a batch stay in their order

constexpr const char* kSchema = "pockui.artifact/1";
constexpr const char* kAgain = "Copy the folder again, or compile it again.";
constexpr std::uint64_t kMaxBytes = 1 << 28;
constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 40;
constexpr std::int64_t kLargestStep = std::int64_t{1} << 40;  // added to a place, it stays a number

/// What is not valid in a manifest.
class Invalid : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A field that older versions did not write.
template <typename T>
T later(const Json& object, const char* key, T otherwise) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? otherwise : found->get<T>();
}

DType parsed_dtype(const Json& object) {
  const auto name = object.at("dtype").get<std::string>();
  if (const auto dtype = dtype_named(name)) return *dtype;
  throw Invalid("there is a dtype " + in_quotes(name));
}

Shape parsed_shape(const Json& object) {
  auto shape = object.at("shape").get<Shape>();
  std::uint64_t count = 1;
  for (const std::size_t n : shape) {
    if (n > kMaxElements || (n && count > kMaxElements / n)) {
      throw Invalid("a shape is larger than any tensor");
    }
    count *= n;
  }
  return shape;
}

Slot parsed_slot(const Json& object) {
  return {object.at("role").get<std::string>(),
          object.at("fqn").get<std::string>(),
          later<std::string>(object, "key", ""),
          parsed_shape(object),
          parsed_dtype(object),
          later(object, "trained", false),
          later(object, "changes", false)};
}

std::vector<Slot> parsed_slots(const Json& list) {
  std::vector<Slot> slots;
  for (const Json& object : list) slots.push_back(parsed_slot(object));
  return slots;
}

GraphSpec parsed_graph(const Json& object) {
  return {parsed_slots(object.at("inputs")), parsed_slots(object.at("outputs"))};
}

BatchSpec batch_of(const GraphSpec& graph) {
  BatchSpec batch;
  for (const Slot& slot : graph.inputs) {
    if (slot.role == "batch") batch.push_back({slot.fqn, slot.dtype, slot.shape});
  }
  return batch;
}

Limit parsed_limit(const Json& object, const BatchSpec& batch) {
  Limit limit;
  limit.entry = object.at("entry").get<std::string>();
  limit.low = object.at("low").get<std::int64_t>();
  limit.high = object.at("high").get<std::int64_t>();
  limit.also = later(object, "also", limit.also);
  limit.why = object.at("why").get<std::string>();
  limit.remedy = later(object, "remedy", limit.remedy);
  limit.reached = later(object, "reached", false);
  limit.descending = later(object, "descending", false);
  limit.ascending = later(object, "ascending", false);
  const auto places = object.find("places");
  limit.whole = places == object.end() || places->is_null();
  if (!limit.whole && !places->empty() && places->front().is_array()) {
    limit.slices = places->get<decltype(limit.slices)>();
  } else if (!limit.whole) {
    limit.elements = places->get<decltype(limit.elements)>();
  }
  const auto entry =
      std::find_if(batch.begin(), batch.end(), [&](const Entry& e) { return e.name == limit.entry; });
  const bool fits = entry != batch.end() &&
                    (limit.slices.empty() || limit.slices.size() == entry->shape.size()) &&
                    std::all_of(limit.slices.begin(), limit.slices.end(),
                                [](const auto& s) {
                                  return s[0] >= 0 && s[1] >= 0 && s[2] > 0 && s[2] <= kLargestStep;
                                }) &&
                    std::all_of(limit.elements.begin(), limit.elements.end(),
                                [&](std::size_t i) { return i < elements_of(entry->shape); });
  if (!fits) throw Invalid("a limit of " + in_quotes(limit.entry) + " is of no entry, or of no part of it");
  return limit;
}

/// Args: prefix: of the fields, `train_`, `eval_` or nothing.
Checks parsed_checks(const Json& object, const std::string& prefix, const BatchSpec& batch) {
  Checks checks;
  const auto limits = object.find(prefix + "limits");
  if (limits != object.end()) {
    for (const Json& limit : *limits) checks.limits.push_back(parsed_limit(limit, batch));
  }
  checks.guards = later(object, (prefix + "guards").c_str(), checks.guards);
  checks.integers = later(object, (prefix + "integers").c_str(), checks.integers);
  const auto nonfinite = object.find("nonfinite_entries");
  if (nonfinite != object.end() && !nonfinite->is_null()) {
    checks.nonfinite_entries = nonfinite->get<std::vector<std::string>>();
  }
  return checks;
}

Prediction parsed_prediction(const Json& object) {
  Prediction prediction;
  if (!object.at("samples").is_null()) prediction.samples = object.at("samples").get<std::size_t>();
  prediction.graph = parsed_graph(object.at("graph"));
  prediction.batch = batch_of(prediction.graph);
  prediction.checks = parsed_checks(object, "", prediction.batch);
  prediction.samples_apart = later(object, "samples_apart", true);
  const bool rows =
      !prediction.samples ||
      (*prediction.samples > 0 &&
       std::all_of(prediction.graph.outputs.begin(), prediction.graph.outputs.end(),
                   [&](const Slot& s) { return !s.shape.empty() && s.shape[0] == *prediction.samples; }));
  if (prediction.graph.outputs.empty() || !rows) throw Invalid("a prediction's outputs do not fit its size");
  return prediction;
}

std::vector<Prediction> parsed_predictions(const Json& list) {
  std::vector<Prediction> sizes;
  for (const Json& object : list) sizes.push_back(parsed_prediction(object));
  for (std::size_t i = 1; i < sizes.size(); ++i) {
    const bool ascending =
        sizes[i - 1].samples && sizes[i].samples && *sizes[i - 1].samples < *sizes[i].samples;
    const auto& one = sizes[i - 1].graph.outputs;
    const auto& other = sizes[i].graph.outputs;
    const bool same = std::equal(one.begin(), one.end(), other.begin(), other.end(),
                                 [](const Slot& a, const Slot& b) { return a.name() == b.name(); });
    const auto entries = [](const BatchSpec& a, const BatchSpec& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Entry& x, const Entry& y) {
        return x.name == y.name && x.dtype == y.dtype;
      });
    };
    if (!ascending || !same || !entries(sizes[i - 1].batch, sizes[i].batch)) {
      throw Invalid("its predictions have sizes, entries or outputs that do not fit together");
    }
  }
  return sizes;
}

std::map<std::string, FileSpec> parsed_files(const Json& object) {
  std::map<std::string, FileSpec> files;
  for (const auto& [name, spec] : object.items()) {
    const bool plain = !name.empty() && name != "." && name != ".." && name.size() <= 100 &&
                       std::none_of(name.begin(), name.end(), [](unsigned char c) {
                         return c == '/' || c == '\\' || c < ' ' || c == 0x7f;
                       });
    if (!plain) throw Invalid(in_quotes(name.substr(0, 100)) + " is not a plain file name");
    files.emplace(name,
                  FileSpec{spec.at("sha256").get<std::string>(), spec.at("bytes").get<std::uint64_t>()});
  }
  return files;
}

Manifest parsed(const Json& data) {
  Manifest m;
  m.task = data.at("task").get<std::string>();
  m.fingerprint = data.at("fingerprint").get<std::string>();
  m.computation = later<std::string>(data, "computation", "");
  m.target = data.at("target").get<std::string>();
  const auto options = later(data, "options", Json::object());
  m.precision = later<std::string>(options, "precision", "f32");
  m.frozen_weights = later<std::string>(options, "frozen_weights", "f32");
  for (const auto& [name, spec] : data.at("batch").items()) {
    m.batch.push_back({name, parsed_dtype(spec), parsed_shape(spec)});
  }
  m.train = parsed_graph(data.at("train"));
  m.eval = parsed_graph(data.at("eval"));
  if (m.eval.outputs.size() != 1 || m.eval.outputs[0].shape.size() != 1 || m.eval.outputs[0].shape[0] == 0) {
    throw Invalid("its evaluation does not give one value for each sample");
  }
  m.train_checks = parsed_checks(data, "train_", m.batch);
  m.eval_checks = parsed_checks(data, "eval_", m.batch);
  m.predict = parsed_predictions(later(data, "predict", Json::array()));
  const Json& optimizer = data.at("optimizer");
  if (optimizer.contains("lr") && optimizer["lr"].is_number()) m.lr = optimizer["lr"].get<double>();
  const auto telling = data.find("telling_state");
  if (telling != data.end() && !telling->is_null())
    m.telling_state = telling->get<std::vector<std::string>>();
  m.samples_apart = later(data, "samples_apart", true);
  m.files = parsed_files(data.at("files"));
  return m;
}

bool is_inside(const fs::path& folder, const fs::path& path) {
  return fs::canonical(path).parent_path() == fs::canonical(folder);
}

/// What tells a file from the one that the manifest lists, or an empty text.
std::string difference(const fs::path& folder, const Manifest& manifest, const std::string& name) {
  const auto spec = manifest.files.find(name);
  if (spec == manifest.files.end()) return name + " is not listed in manifest.json";
  const fs::path path = folder / name;
  try {
    if (!fs::exists(fs::status(path))) return name + " is missing";
    if (!is_inside(folder, path)) return name + " is a link to a place outside the folder";
    const InputFile file(path);
    if (file.size() != spec->second.bytes) {
      return name + " has " + std::to_string(file.size()) + " bytes instead of " +
             std::to_string(spec->second.bytes);
    }
    return sha256_of(file) == spec->second.sha256 ? "" : name + " was changed (its SHA-256 differs)";
  } catch (const FileError& e) {
    return name + " cannot be read (" + e.what() + ")";
  } catch (const fs::filesystem_error& e) {
    return name + " cannot be read (" + e.code().message() + ")";
  }
}

void require_runnable(const fs::path& folder, const Manifest& manifest) {
  if (manifest.target != "openvino") {
    throw ArtifactError(
        "The artefact " + folder.string() + " was compiled for " + manifest.target +
        ", and this program runs those of openvino. Compile it again with target=\"openvino\"; a "
        "checkpoint goes on with it.");
  }
  if (manifest.precision != "f32") {
    throw ArtifactError(
        "The artefact " + folder.string() + " asks for precision " + in_quotes(manifest.precision) +
        ", and this program computes in f32. Compile it again without the option, or run it with "
        "python -m pockgraph.runtime, which checks what a device rounds.");
  }
  if (manifest.frozen_weights != "f32" && manifest.frozen_weights != "int8") {
    throw ArtifactError("The artefact " + folder.string() + " stores frozen weights in " +
                        in_quotes(manifest.frozen_weights) +
                        "; this program knows f32 and int8. Compile it again with one of these.");
  }
  for (const auto& [name, spec] : manifest.files) {
    for (const char* ending : {".pt2", ".so", ".dll", ".dylib"}) {
      if (fs::path(name).extension() == ending) {
        throw ArtifactError("The artefact " + folder.string() + " holds native code (" + name +
                            "), which this program does not run.");
      }
    }
  }
}

Json parsed_json(const fs::path& folder, const fs::path& path) {
  try {
    if (!is_inside(folder, path)) throw FileError("it is a link to a place outside the folder");
    return Json::parse(read_text(path, kMaxBytes));
  } catch (const FileError& e) {
    throw ArtifactError("Cannot read " + path.string() + ": " + e.what() + ". " + kAgain);
  } catch (const Json::exception&) {
    throw ArtifactError("Cannot read " + path.string() + ": it is not JSON. " + kAgain);
  }
}

}  // namespace

std::string Slot::name() const {
  if (role == "lr" || role == "seed" || role == "loss" || role == "metric") return role;
  std::string text = role == "param" && trained ? "trained" : role;
  for (const std::string* part : {&fqn, &key}) {
    if (!part->empty()) text += ":" + *part;
  }
  return text;
}

std::string Slot::next_name() const { return Slot{"new_" + role, fqn, key, {}, dtype}.name(); }

std::vector<Slot> GraphSpec::state() const {
  std::vector<Slot> slots;
  std::copy_if(inputs.begin(), inputs.end(), std::back_inserter(slots),
               [](const Slot& s) { return s.is_state(); });
  return slots;
}

bool GraphSpec::takes(const std::string& name) const {
  return std::any_of(inputs.begin(), inputs.end(), [&](const Slot& s) { return s.name() == name; });
}

Manifest read_manifest(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw ArtifactError("There is no artefact folder " + folder.string() +
                        ". Compile one with pockgraph.compile(…, target=\"openvino\").");
  }
  const fs::path path = folder / "manifest.json";
  if (!fs::exists(path)) {
    throw ArtifactError(folder.string() +
                        " is not an artefact: it has no manifest.json. Pass a folder that " +
                        "pockgraph.compile wrote.");
  }
  const Json data = parsed_json(folder, path);
  const Json schema = data.is_object() ? later(data, "schema", Json()) : Json();
  if (schema != kSchema) {
    throw ArtifactError(
        path.string() + " has schema " +
        (schema.is_string() ? in_quotes(schema.get<std::string>()) : schema.dump()) +
        "; this version of pockui reads '" + kSchema +
        "'. Compile the artefact again with this version, or run it with the version that wrote it.");
  }
  try {
    Manifest manifest = parsed(data);
    require_runnable(folder, manifest);
    return manifest;
  } catch (const Invalid& e) {
    throw ArtifactError(path.string() + " is not a valid manifest: " + e.what() + ". " + kAgain);
  } catch (const Json::exception& e) {
    throw ArtifactError(path.string() + " is not a valid manifest: " + e.what() + ". " + kAgain);
  }
}

void verify_files(const fs::path& folder, const Manifest& manifest, const std::vector<std::string>& names) {
  std::vector<std::string> wrong;
  for (const std::string& name : names) {
    if (auto found = difference(folder, manifest, name); !found.empty()) wrong.push_back(std::move(found));
  }
  if (!wrong.empty()) {
    throw ArtifactError("The artefact " + folder.string() + " is damaged: " + listing(wrong) + ". " + kAgain);
  }
}

std::vector<std::string> rows_of(const std::vector<Prediction>& sizes) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sizes.at(0).batch.size(); ++i) {
    const bool rows = std::all_of(sizes.begin(), sizes.end(), [&](const Prediction& p) {
      return p.samples && p.batch[i].has_rows(*p.samples);
    });
    if (rows) names.push_back(sizes[0].batch[i].name);
  }
  return names;
}

}  // namespace pockui
