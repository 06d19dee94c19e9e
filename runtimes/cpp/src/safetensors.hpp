#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "files.hpp"
#include "pockui/array.hpp"

namespace pockui {

struct TensorSpec {
  DType dtype;
  Shape shape;
};

/// A safetensors file: its header, and arrays that are read when they are asked for.
class SafetensorsFile {
 public:
  struct Tensor : TensorSpec {
    std::uint64_t offset = 0;  // in the file
  };

  /// Throws FileError: it cannot be read, or it is no such file.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, Tensor>& tensors() const noexcept { return tensors_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }

  /// Throws FileError.
  Array read(const std::string& name) const;

 private:
  InputFile file_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Write such a file, whole or not at all.
///
/// Args: value: of a tensor, asked for when it is written.
///
/// Throws FileError.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorSpec>& tensors,
                       const std::function<Array(const std::string&)>& value,
                       const std::map<std::string, std::string>& metadata);

}  // namespace pockui
