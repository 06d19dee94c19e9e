#include "files.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

#include "sha256.hpp"

namespace pockui {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kPieceBytes = 1 << 16;
constexpr std::string_view kStagingSuffix = ".pockui-partial";

std::string system_reason(int code = errno) {
  std::string text = std::strerror(code);
  if (!text.empty()) text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  return text;
}

/// An open file or folder.
class Handle {
 public:
  Handle(const fs::path& path, int flags) : handle_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (handle_ >= 0) ::close(handle_);
  }

  bool open() const { return handle_ >= 0; }
  bool locked() const { return open() && ::flock(handle_, LOCK_EX | LOCK_NB) == 0; }
  bool flushed() const { return open() && ::fsync(handle_) == 0; }

 private:
  int handle_;
};

/// Remove what killed writers of `path` left; what another process is writing stays.
void sweep(const fs::path& path) {
  const std::string prefix = "." + path.filename().string() + ".";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name.size() == prefix.size() + 8 + kStagingSuffix.size() &&
                      name.compare(0, prefix.size(), prefix) == 0 &&
                      name.compare(prefix.size() + 8, std::string::npos, kStagingSuffix) == 0;
    if (!ours || entry.is_symlink(ignored) || !entry.is_directory(ignored)) continue;
    const Handle folder(entry.path(), O_RDONLY | O_DIRECTORY);
    if (folder.locked()) fs::remove_all(entry.path(), ignored);
  }
}

/// A new locked folder beside `path`, which goes away with this object.
class Staging {
 public:
  explicit Staging(const fs::path& path) : folder_(made(path)), lock_(folder_, O_RDONLY | O_DIRECTORY) {
    static_cast<void>(lock_.locked());  // some network file systems have no locks
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  fs::path file() const { return folder_ / "new"; }

 private:
  static fs::path made(const fs::path& path) {
    std::ostringstream name;
    name << "." << path.filename().string() << "." << std::hex << std::setfill('0') << std::setw(8)
         << std::random_device{}() << kStagingSuffix;
    fs::path folder = path.parent_path() / name.str();
    if (::mkdir(folder.c_str(), 0777) != 0) throw FileError(system_reason());
    return folder;
  }

  fs::path folder_;
  Handle lock_;
};

}  // namespace

InputFile::InputFile(const fs::path& path)
    : handle_(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  struct stat status{};
  if (handle_ < 0) throw FileError(system_reason());
  if (::fstat(handle_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(handle_);
    throw FileError("it is no file but a folder, a pipe or a device");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::InputFile(InputFile&& other) noexcept
    : handle_(std::exchange(other.handle_, -1)), size_(other.size_) {}

InputFile::~InputFile() {
  if (handle_ >= 0) ::close(handle_);
}

void InputFile::read(std::uint64_t offset, void* into, std::size_t count) const {
  auto* at = static_cast<char*>(into);
  while (count > 0) {
    const ssize_t got = ::pread(handle_, at, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(system_reason());
    if (got == 0) throw FileError("it was cut short");
    at += got;
    offset += static_cast<std::uint64_t>(got);
    count -= static_cast<std::size_t>(got);
  }
}

std::string read_text(const fs::path& path, std::uint64_t limit) {
  const InputFile file(path);
  if (file.size() > limit) throw FileError("it is larger than " + std::to_string(limit) + " bytes");
  std::string text(file.size(), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

void for_each_piece(const InputFile& file, std::uint64_t offset, std::uint64_t count,
                    const std::function<void(const std::byte*, std::size_t)>& use) {
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, count)));
  while (count > 0) {
    const auto taken = static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), count));
    file.read(offset, piece.data(), taken);
    use(piece.data(), taken);
    offset += taken;
    count -= taken;
  }
}

std::string sha256_of(const InputFile& file) {
  Sha256 digest;
  for_each_piece(file, 0, file.size(),
                 [&](const std::byte* data, std::size_t size) { digest.update(data, size); });
  return digest.hex();
}

void replace_file(const fs::path& path, const std::function<void(std::ostream&)>& write) {
  const fs::path place = fs::absolute(path);
  std::error_code failed;
  fs::create_directories(place.parent_path(), failed);
  if (failed) throw FileError(system_reason(failed.value()));
  sweep(place);
  const Staging staging(place);
  {
    errno = 0;
    std::ofstream out(staging.file(), std::ios::binary);
    write(out);
    out.flush();
    if (!out) throw FileError(errno ? system_reason() : "it could not be written");
  }
  if (!Handle(staging.file(), O_RDWR).flushed()) throw FileError(system_reason());
  fs::rename(staging.file(), place, failed);
  if (failed) throw FileError(system_reason(failed.value()));
  // Some network file systems do not flush folders.
  static_cast<void>(Handle(place.parent_path(), O_RDONLY | O_DIRECTORY).flushed());
}

}  // namespace pockui
