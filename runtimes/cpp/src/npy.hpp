#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "files.hpp"
#include "pockui/array.hpp"

namespace pockui {

/// The arrays of an `.npz` file as numpy.savez writes it, or of one `.npy` file; rows are read when they are
/// asked for.
class NumpyFile {
 public:
  struct Member {
    DType dtype;
    Shape shape;
    std::uint64_t offset;  // of the values, in the file
  };

  /// Args: only_name: what the array of an `.npy` file is called.
  ///
  /// Throws FileError: it cannot be read, is neither, or holds what this reader does not take: compressed
  /// members, other byte orders, Fortran order, Python objects.
  NumpyFile(const std::filesystem::path& path, const std::string& only_name);

  const std::map<std::string, Member>& members() const noexcept { return members_; }

  /// Throws FileError.
  Array read(const Member& member) const;

  /// Rows `start` to `start + count` of the first dimension. Throws FileError.
  Array read_rows(const Member& member, std::size_t start, std::size_t count) const;

 private:
  void read_archive();
  Member parsed_array(std::uint64_t offset, std::uint64_t size) const;

  InputFile file_;
  std::map<std::string, Member> members_;
};

/// Write an `.npz` file, whole or not at all. Throws FileError.
void write_npz(const std::filesystem::path& path, const Arrays& arrays);

}  // namespace pockui
