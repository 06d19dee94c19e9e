#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <ostream>
#include <stdexcept>
#include <string>

namespace pockui {

/// What the operating system says of a file, as a clause of a message.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A regular file, open for reading.
class InputFile {
 public:
  /// Throws FileError: there is none, or it is a folder, a pipe or a device.
  explicit InputFile(const std::filesystem::path& path);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;
  ~InputFile();

  std::uint64_t size() const noexcept { return size_; }

  /// Throws FileError: there are fewer bytes.
  void read(std::uint64_t offset, void* into, std::size_t count) const;

 private:
  int handle_ = -1;
  std::uint64_t size_ = 0;
};

/// A whole file of at most `limit` bytes. Throws FileError.
std::string read_text(const std::filesystem::path& path, std::uint64_t limit);

/// In pieces, the bytes of a file from `offset` on.
void for_each_piece(const InputFile& file, std::uint64_t offset, std::uint64_t count,
                    const std::function<void(const std::byte*, std::size_t)>& use);

/// The SHA-256 of a file in hexadecimal. Throws FileError.
std::string sha256_of(const InputFile& file);

/// Write a file, whole or not at all: after a kill or a power failure there is the old one or the new one.
///
/// It is made in a staging folder beside its place, flushed to disk, and renamed. The folder is locked while
/// its writer lives; what a killed one left goes away with the next writing, in Python, too.
///
/// Throws FileError: it cannot be written, and an old file is as it was.
void replace_file(const std::filesystem::path& path, const std::function<void(std::ostream&)>& write);

}  // namespace pockui
