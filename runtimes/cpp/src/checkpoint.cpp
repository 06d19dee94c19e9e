#include "checkpoint.hpp"

#include <map>
#include <nlohmann/json.hpp>

#include "dtypes.hpp"
#include "files.hpp"
#include "pockui/errors.hpp"
#include "safetensors.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace pockui {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchema = "pockui.checkpoint/2";
constexpr const char* kFirstSchema = "pockui.checkpoint/1";  // its digest covers the values alone
constexpr const char* kHeader = "pockui";

struct Header {
  std::string schema, task, fingerprint, computation;
  std::int64_t step = 0, seed = 0;
  std::string sha256;
};

/// A shape as Python writes a tuple.
std::string python_tuple(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

/// A text as Python's json.dumps writes it.
std::string python_json(const std::string& text) { return Json(text).dump(-1, ' ', true); }

/// The digest of a checkpoint, whose slots come in the order of their names.
class Digest {
 public:
  explicit Digest(const Header& header) {
    if (header.schema == kFirstSchema) return;
    std::string said = "[";
    for (const auto* text : {&header.schema, &header.task, &header.fingerprint, &header.computation}) {
      said += python_json(*text) + ", ";
    }
    sum_.update(said + std::to_string(header.step) + ", " + std::to_string(header.seed) + "]");
  }

  void update(const std::string& name, const Array& array) {
    sum_.update(name + " " + std::string(name_of(array.dtype())) + " " + python_tuple(array.shape()) + ";");
    sum_.update(array.bytes(), array.byte_size());
  }

  std::string hex() { return sum_.hex(); }

 private:
  Sha256 sum_;
};

/// The state slots by name, in the order of the names' code points.
std::map<std::string, Slot> slots_of(const Manifest& manifest) {
  std::map<std::string, Slot> slots;
  for (const Slot& slot : manifest.train.state()) slots.emplace(slot.name(), slot);
  return slots;
}

[[noreturn]] void refuse(const fs::path& path, const FileError& error) {
  throw ArtifactError(path.string() + " is damaged or no safetensors file (" + error.what() +
                      "). Use another copy or an older checkpoint.");
}

SafetensorsFile opened(const fs::path& path) {
  if (!fs::exists(path)) throw ArtifactError("There is no file " + path.string() + ".");
  try {
    return SafetensorsFile(path);
  } catch (const FileError& e) {
    refuse(path, e);
  }
}

Header parsed_header(const fs::path& path, const SafetensorsFile& file) {
  const auto found = file.metadata().find(kHeader);
  if (found == file.metadata().end()) {
    throw ArtifactError(path.string() +
                        " is no checkpoint: its header says nothing of one. Pass what save() wrote.");
  }
  try {
    const Json data = Json::parse(found->second);
    const auto schema = data.at("schema").get<std::string>();
    if (schema != kSchema && schema != kFirstSchema) {
      throw ArtifactError(path.string() + " has schema " + in_quotes(schema) +
                          "; this version of pockui reads '" + kSchema + "' and older ones.");
    }
    const auto integer = [&](const char* key) {
      const auto at = data.find(key);
      if (at == data.end()) return std::int64_t{0};
      if (!at->is_number_integer()) throw FileError(std::string(key) + " is no integer of 64 bits");
      return at->get<std::int64_t>();
    };
    return {schema,
            data.at("task").get<std::string>(),
            data.at("fingerprint").get<std::string>(),
            data.value("computation", ""),
            integer("step"),
            integer("seed"),
            data.at("sha256").get<std::string>()};
  } catch (const Json::exception&) {
    throw ArtifactError(path.string() + " is no checkpoint: its header is not valid.");
  } catch (const FileError& e) {
    throw ArtifactError(path.string() + " is no checkpoint: its header is not valid (" + e.what() + ").");
  }
}

void require_fitting(const fs::path& path, const Header& header, const Manifest& manifest) {
  const std::string which = "The checkpoint " + path.string() + " (task " + in_quotes(header.task) +
                            ", step " + std::to_string(header.step) + ") ";
  const std::string remedy = " Load the artefact it was saved from, or train this one anew.";
  if (header.fingerprint != manifest.fingerprint) {
    throw ArtifactError(which +
                        "belongs to another artefact: its model, plan, optimizer or frozen weights are not "
                        "those of this one (task " +
                        in_quotes(manifest.task) + ")." + remedy);
  }
  const bool both_said = !header.computation.empty() && !manifest.computation.empty();
  if (both_said && header.computation != manifest.computation) {
    throw ArtifactError(
        which + "was trained by another computation than that of task " + in_quotes(manifest.task) +
        ": tensors and optimizer are the same, but the operators of the forward pass or the loss "
        "differ (another activation, another loss)." +
        remedy);
  }
}

std::string described(DType dtype, const Shape& shape) {
  return std::string(name_of(dtype)) + " " + to_text(shape);
}

void require_slots(const fs::path& path, const SafetensorsFile& file, const Manifest& manifest) {
  std::vector<std::string> wrong;
  const auto slots = slots_of(manifest);
  for (const auto& [name, slot] : slots) {
    const auto held = file.tensors().find(name);
    if (held == file.tensors().end()) {
      wrong.push_back(name + " is missing");
    } else if (held->second.dtype != slot.dtype || held->second.shape != slot.shape) {
      wrong.push_back(name + " is " + described(held->second.dtype, held->second.shape) + " instead of " +
                      described(slot.dtype, slot.shape));
    }
  }
  for (const auto& held : file.tensors()) {
    if (!slots.count(held.first)) wrong.push_back(held.first + " is unexpected");
  }
  if (!wrong.empty()) {
    throw ArtifactError("The checkpoint " + path.string() +
                        " does not hold this artefact's state: " + listing(wrong) + ".");
  }
}

}  // namespace

Checkpoint load_checkpoint(const fs::path& path, const Manifest& manifest) {
  const SafetensorsFile file = opened(path);
  const Header header = parsed_header(path, file);
  require_fitting(path, header, manifest);
  require_slots(path, file, manifest);
  Checkpoint found{{}, header.step, header.seed};
  try {
    for (const auto& held : file.tensors()) found.state.emplace(held.first, file.read(held.first));
  } catch (const FileError& e) {
    refuse(path, e);
  }
  Digest digest(header);
  for (const auto& [name, array] : found.state) digest.update(name, array);
  if (digest.hex() != header.sha256 || header.step < 0) {
    throw ArtifactError("The checkpoint " + path.string() +
                        " was damaged: its values or its header changed. Use another one.");
  }
  std::vector<std::string> bad;
  for (const auto& [name, array] : found.state) {
    if (!is_finite(array)) bad.push_back(name);
  }
  if (!bad.empty()) {
    throw ArtifactError("The checkpoint " + path.string() + " cannot be continued: " + listing(bad) +
                        " hold NaN or infinite values. Use an older one.");
  }
  return found;
}

void require_replaceable(const fs::path& path) {
  std::error_code ignored;
  const auto status = fs::status(path, ignored);
  if (fs::is_directory(status)) {
    throw ArtifactError(path.string() + " is a folder. Name the checkpoint that is to be written, such as " +
                        (path / "NAME").string() + ".");
  }
  if (!fs::is_regular_file(status) || fs::file_size(path, ignored) == 0) return;
  try {
    parsed_header(path, SafetensorsFile(path));
  } catch (const std::runtime_error&) {
    throw ArtifactError(path.string() +
                        " exists and is no checkpoint, so it is not replaced. Choose another place, "
                        "or move it away.");
  }
}

void save_checkpoint(const fs::path& path, const Manifest& manifest, std::int64_t step, std::int64_t seed,
                     const std::function<Array(const Slot&)>& value) {
  require_replaceable(path);
  Header header{kSchema, manifest.task, manifest.fingerprint, manifest.computation, step, seed, ""};
  const auto slots = slots_of(manifest);
  std::map<std::string, TensorSpec> tensors;
  std::vector<std::string> bad;
  Digest digest(header);
  for (const auto& [name, slot] : slots) {
    const Array array = value(slot);
    if (!is_finite(array)) bad.push_back(name);
    digest.update(name, array);
    tensors.emplace(name, TensorSpec{slot.dtype, slot.shape});
  }
  if (!bad.empty()) {
    throw NonFiniteLoss("Nothing was written to " + path.string() + ": " + listing(bad) +
                        " hold NaN or infinite values, and no step put them there. Compile the model again.");
  }
  header.sha256 = digest.hex();
  const Json said{{"schema", header.schema},
                  {"task", header.task},
                  {"fingerprint", header.fingerprint},
                  {"computation", header.computation},
                  {"step", header.step},
                  {"seed", header.seed},
                  {"sha256", header.sha256}};
  try {
    write_safetensors(path, tensors, [&](const std::string& name) { return value(slots.at(name)); },
                      {{kHeader, said.dump()}});
  } catch (const FileError& e) {
    throw ArtifactError("Cannot write " + path.string() + ": " + e.what() +
                        ". Choose another place, or make room there.");
  }
}

void for_each_initial(const fs::path& folder, const std::vector<Slot>& slots,
                      const std::function<void(const Slot&, const Array&)>& use) {
  const fs::path path = folder / "state.safetensors";
  const SafetensorsFile file = opened(path);
  std::vector<std::string> wrong;
  for (const Slot& slot : slots) {
    const auto held = file.tensors().find(slot.name());
    const bool fits =
        held != file.tensors().end() && held->second.dtype == slot.dtype && held->second.shape == slot.shape;
    if (!fits) wrong.push_back(slot.name());
  }
  if (!wrong.empty()) {
    throw ArtifactError("The artefact " + folder.string() + " is damaged: manifest and state disagree on " +
                        listing(wrong) + ". Copy the folder again, or compile it again.");
  }
  try {
    for (const Slot& slot : slots) use(slot, file.read(slot.name()));
  } catch (const FileError& e) {
    refuse(path, e);
  }
}

}  // namespace pockui
