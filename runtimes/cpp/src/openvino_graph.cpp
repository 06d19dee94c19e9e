#include "openvino_graph.hpp"

#include <cstdint>
#include <map>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include "dtypes.hpp"
#include "mapped_pages.hpp"
#include "pockui/errors.hpp"
#include "state_history.hpp"
#include "text.hpp"

namespace pockui {
namespace {

constexpr const char* kGenerated = "SNIPPETS_MODE";  // of the CPU plugin: kernels that it generates
constexpr const char* kDisable = "DISABLE";

/// One a process: the CPU plugin of each gives its thread a signal stack, and puts back the one before when
/// it goes, which may be gone by then.
ov::Core& core() {
  static ov::Core shared;
  return shared;
}

DType dtype_of_element(const ov::element::Type& type) {
  const auto found = [&]() -> std::optional<DType> {
    if (type == ov::element::boolean) return DType::boolean;
    if (type == ov::element::i8) return DType::int8;
    if (type == ov::element::i16) return DType::int16;
    if (type == ov::element::i32) return DType::int32;
    if (type == ov::element::i64) return DType::int64;
    if (type == ov::element::u8) return DType::uint8;
    if (type == ov::element::u16) return DType::uint16;
    if (type == ov::element::u32) return DType::uint32;
    if (type == ov::element::u64) return DType::uint64;
    if (type == ov::element::f16) return DType::float16;
    if (type == ov::element::bf16) return DType::bfloat16;
    if (type == ov::element::f32) return DType::float32;
    if (type == ov::element::f64) return DType::float64;
    return std::nullopt;
  }();
  if (!found)
    throw ArtifactError("A graph holds " + type.to_string() + ", which this program does not know.");
  return *found;
}

/// Variables cannot be int64: the lowering holds such a state (a counter) as int32.
DType held_dtype(DType dtype) { return dtype == DType::int64 ? DType::int32 : dtype; }

/// What an exception of OpenVINO says, without where in its code it was.
std::string reason(const std::exception& error) {
  std::string text = error.what();
  while (!text.empty() && (text.back() == '\n' || text.back() == '.' || text.back() == ' ')) text.pop_back();
  const std::size_t line = text.rfind('\n');
  return line == std::string::npos ? text : text.substr(line + 1);
}

Array to_array(const ov::Tensor& tensor, DType dtype, const Shape& shape) {
  const DType held = dtype_of_element(tensor.get_element_type());
  Array array(held, shape);
  if (array.size() != tensor.get_size())
    throw ArtifactError("A tensor of a graph has another size than the manifest's.");
  tensor.copy_to(ov::Tensor(tensor.get_element_type(), tensor.get_shape(), array.bytes()));
  if (auto made = cast(array, dtype == DType::bfloat16 ? DType::float32 : dtype)) return std::move(*made);
  throw ArtifactError("A graph gives " + std::string(name_of(held)) + " where the manifest says " +
                      std::string(name_of(dtype)) + ".");
}

ov::CompiledModel compiled(const std::filesystem::path& xml, const std::filesystem::path& constants,
                           const Options& options) {
  ov::AnyMap config{{ov::hint::inference_precision.name(), ov::element::f32},
                    {ov::hint::performance_mode.name(), ov::hint::PerformanceMode::LATENCY},
                    // Else activations that meet frozen weights in int8 are rounded to int8, too.
                    {ov::hint::dynamic_quantization_group_size.name(), std::uint64_t{0}}};
  if (options.threads) config[ov::inference_num_threads.name()] = *options.threads;
  if (options.low_memory) config[kGenerated] = kDisable;
  const DroppedPages dropping(constants);
  try {
    return core().compile_model(core().read_model(xml.string(), constants.string()), "CPU", config);
  } catch (const std::exception& e) {
    // Where several heads of attention read what their residual is added to, OpenVINO 2026.4 fails at
    // generating kernels, and says so. A step without generated kernels takes about as long.
    if (options.low_memory || std::string(e.what()).find("/snippets/") == std::string::npos) throw;
    config[kGenerated] = kDisable;
    return core().compile_model(core().read_model(xml.string(), constants.string()), "CPU", config);
  }
}

}  // namespace

std::vector<std::string> files_of_graph(const Manifest& manifest, const std::string& stem) {
  // Older versions wrote constants for each graph; now all share one file.
  const std::string own = stem + ".bin";
  return {stem + ".xml", manifest.files.count(own) ? own : "train.bin"};
}

class OpenVinoGraph::Request {
 public:
  Request(const std::filesystem::path& folder, const Manifest& manifest, const std::string& stem,
          const GraphSpec& spec, const Options& options);

  void feed(const std::string& name, const Array& value);
  void infer();
  Array output(const Slot& slot) const { return to_array(tensors_.at(slot.name()), slot.dtype, slot.shape); }
  Array read(const Slot& slot) const { return to_array(state(slot.name()), slot.dtype, slot.shape); }
  void write(const Slot& slot, const Array& value);
  ov::Tensor state(const std::string& name) const { return variables_.at(name).get_state(); }
  void keep_history(const std::vector<std::string>& changing);
  StateHistory& history() { return history_.value(); }

 private:
  void check(const GraphSpec& spec) const;

  std::string file_;
  ov::InferRequest request_;
  std::map<std::string, ov::Tensor> tensors_;
  std::map<std::string, ov::VariableState> variables_;
  std::optional<StateHistory> history_;
};

OpenVinoGraph::Request::Request(const std::filesystem::path& folder, const Manifest& manifest,
                                const std::string& stem, const GraphSpec& spec, const Options& options) {
  const auto files = files_of_graph(manifest, stem);
  file_ = (folder / files[0]).string();
  try {
    ov::CompiledModel model = compiled(folder / files[0], folder / files[1], options);
    request_ = model.create_infer_request();
    for (const auto& port : model.inputs()) tensors_.emplace(port.get_any_name(), request_.get_tensor(port));
    for (const auto& port : model.outputs()) tensors_.emplace(port.get_any_name(), request_.get_tensor(port));
    for (const auto& variable : request_.query_state()) variables_.emplace(variable.get_name(), variable);
  } catch (const ov::Exception& e) {
    throw ArtifactError("OpenVINO " + std::string(ov::get_openvino_version().buildNumber) +
                        " cannot compile " + file_ + ": " + reason(e) +
                        ". Compile the artefact again with this version of OpenVINO.");
  }
  check(spec);
}

void OpenVinoGraph::Request::check(const GraphSpec& spec) const {
  std::vector<std::string> wrong;
  const auto compare = [&](const Slot& slot, bool found, std::size_t size) {
    if (!found || size != elements_of(slot.shape)) wrong.push_back(slot.name());
  };
  for (const Slot& slot : spec.inputs) {
    if (slot.is_state()) {
      const auto at = variables_.find(slot.name());
      const auto state = at == variables_.end() ? ov::Tensor() : at->second.get_state();
      compare(slot, bool(state), state ? state.get_size() : 0);
      if (state && dtype_of_element(state.get_element_type()) != held_dtype(slot.dtype)) {
        throw ArtifactError("OpenVINO holds " + slot.name() + " as " + state.get_element_type().to_string() +
                            " instead of " + std::string(name_of(slot.dtype)) +
                            ": small updates would be lost.");
      }
    } else if (slot.role == "batch" || slot.role == "lr" || slot.role == "seed") {
      const auto at = tensors_.find(slot.name());
      compare(slot, at != tensors_.end(), at == tensors_.end() ? 0 : at->second.get_size());
    }
  }
  for (const Slot& slot : spec.outputs) {
    const auto at = tensors_.find(slot.name());
    const bool state = slot.role.rfind("new_", 0) == 0;  // a variable's, and no output
    if (!state) compare(slot, at != tensors_.end(), at == tensors_.end() ? 0 : at->second.get_size());
  }
  if (variables_.size() != spec.state().size() || !wrong.empty()) {
    throw ArtifactError(file_ + " and the manifest disagree on " +
                        (wrong.empty() ? "the state" : listing(wrong)) +
                        ". Copy the folder again, or compile it again.");
  }
}

void OpenVinoGraph::Request::feed(const std::string& name, const Array& value) {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) return;
  ov::Tensor& tensor = at->second;
  const auto made = cast(value, dtype_of_element(tensor.get_element_type()));
  if (!made || made->byte_size() != tensor.get_byte_size()) {
    throw BatchError(name + " holds values for which the graph has no room: it takes " +
                     tensor.get_element_type().to_string() + ".");
  }
  std::memcpy(tensor.data(), made->bytes(), made->byte_size());
}

void OpenVinoGraph::Request::infer() {
  try {
    request_.infer();
  } catch (const ov::Exception& e) {
    throw ArtifactError("OpenVINO cannot run " + file_ + ": " + reason(e) + ".");
  }
}

void OpenVinoGraph::Request::write(const Slot& slot, const Array& value) {
  const auto held = cast(value, held_dtype(slot.dtype));
  if (!held)
    throw ArtifactError("OpenVINO holds " + slot.name() + " as int32, which is too small for its value.");
  ov::VariableState& variable = variables_.at(slot.name());
  const ov::Tensor state = variable.get_state();
  ov::Tensor made(state.get_element_type(), state.get_shape());
  std::memcpy(made.data(), held->bytes(), held->byte_size());
  variable.set_state(made);
}

void OpenVinoGraph::Request::keep_history(const std::vector<std::string>& changing) {
  std::vector<ov::VariableState> variables;
  for (const std::string& name : changing) variables.push_back(variables_.at(name));
  history_.emplace(std::move(variables));
}

OpenVinoGraph::OpenVinoGraph(const std::filesystem::path& folder, const Manifest& manifest,
                             const std::string& stem, const GraphSpec& spec, const Options& options)
    : request_(std::make_unique<Request>(folder, manifest, stem, spec, options)) {}

OpenVinoGraph::~OpenVinoGraph() = default;

void OpenVinoGraph::feed(const std::string& name, const Array& value) { request_->feed(name, value); }
void OpenVinoGraph::infer() { request_->infer(); }
Array OpenVinoGraph::output(const Slot& slot) const { return request_->output(slot); }
Array OpenVinoGraph::read(const Slot& slot) const { return request_->read(slot); }
void OpenVinoGraph::write(const Slot& slot, const Array& value) { request_->write(slot, value); }
void OpenVinoGraph::keep_history(const std::vector<std::string>& changing) {
  request_->keep_history(changing);
}

void OpenVinoGraph::step() {
  request_->history().before_step();
  request_->infer();
  request_->history().after_step();
}

void OpenVinoGraph::undo() { request_->history().undo(); }

std::vector<std::string> OpenVinoGraph::nonfinite(const std::vector<std::string>& checked) const {
  std::vector<std::string> bad;
  for (const std::string& name : checked) {
    const ov::Tensor state = request_->state(name);
    const auto* bytes = static_cast<const std::byte*>(state.data());
    if (!is_finite(dtype_of_element(state.get_element_type()), bytes, state.get_size())) bad.push_back(name);
  }
  return bad;
}

}  // namespace pockui
