#include "safetensors.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "dtypes.hpp"
#include "text.hpp"

namespace pockui {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kLongestHeader = 100'000'000;

std::uint64_t header_length(const InputFile& file) {
  std::array<std::uint8_t, kLengthBytes> bytes;
  file.read(0, bytes.data(), bytes.size());
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) length |= std::uint64_t{bytes[i]} << 8 * i;
  if (length > kLongestHeader || length > file.size() - kLengthBytes) throw FileError("it was cut short");
  return length;
}

/// The description of a tensor that lies in `room` bytes from `start` on.
SafetensorsFile::Tensor parsed(const std::string& name, const json& said, std::uint64_t start,
                               std::uint64_t room) {
  const auto dtype = dtype_of_safetensors(said.at("dtype").get<std::string>());
  if (!dtype) throw FileError(name + " is of an unknown dtype");
  SafetensorsFile::Tensor tensor{{*dtype, said.at("shape").get<Shape>()}, 0};
  const auto offsets = said.at("data_offsets").get<std::array<std::uint64_t, 2>>();
  std::uint64_t bytes = size_of(*dtype);
  for (const std::size_t n : tensor.shape) {
    if (n != 0 && bytes > room / n) throw FileError(name + " is larger than the file");
    bytes *= n;
  }
  if (offsets[1] > room || offsets[0] > offsets[1] || offsets[1] - offsets[0] != bytes) {
    throw FileError(name + " lies where the file has no room for it");
  }
  tensor.offset = start + offsets[0];
  return tensor;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::uint64_t length = header_length(file_);
  std::string text(length, '\0');
  file_.read(kLengthBytes, text.data(), text.size());
  const std::uint64_t start = kLengthBytes + length;
  try {
    const json header = json::parse(text);
    for (const auto& [name, said] : header.items()) {
      if (name == "__metadata__") {
        metadata_ = said.get<std::map<std::string, std::string>>();
      } else {
        tensors_.emplace(name, parsed(name, said, start, file_.size() - start));
      }
    }
  } catch (const json::exception&) {
    throw FileError("its header is not valid");
  }
}

Array SafetensorsFile::read(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw FileError("it lacks " + name);
  Array array(found->second.dtype, found->second.shape);
  file_.read(found->second.offset, array.bytes(), array.byte_size());
  return array;
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorSpec>& tensors,
                       const std::function<Array(const std::string&)>& value,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const std::pair<const std::string, TensorSpec>*> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  // Large elements first, as each must lie at a multiple of its size.
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_of(a->second.dtype) > size_of(b->second.dtype);
  });
  json header = json::object();
  header["__metadata__"] = metadata;
  std::uint64_t end = 0;
  for (const auto* entry : order) {
    const auto& [name, spec] = *entry;
    const std::uint64_t start = std::exchange(end, end + elements_of(spec.shape) * size_of(spec.dtype));
    header[name] = {
        {"dtype", safetensors_name(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {start, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');
  replace_file(path, [&](std::ostream& out) {
    for (std::size_t i = 0; i < kLengthBytes; ++i) out.put(static_cast<char>(text.size() >> 8 * i & 0xff));
    out << text;
    for (const auto* entry : order) {
      const Array array = value(entry->first);
      out.write(reinterpret_cast<const char*>(array.bytes()),
                static_cast<std::streamsize>(array.byte_size()));
    }
  });
}

}  // namespace pockui
