#include "mapped_pages.hpp"

#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace pockui {
namespace {

constexpr std::chrono::milliseconds kInterval{20};

/// Code of OpenVINO's libraries: mapped without relocations, so that the file has what memory has.
[[maybe_unused]] bool is_code(const std::string& path, const std::string& rights) {
  return rights == "r-xp" && path.find("/libopenvino") != std::string::npos;
}

}  // namespace

DroppedPages::DroppedPages(const std::filesystem::path& constants)
    : constants_(std::filesystem::canonical(constants)), dropping_([this] { drop_now_and_then(); }) {}

DroppedPages::~DroppedPages() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
  dropping_.join();
  drop();
}

void DroppedPages::drop_now_and_then() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kInterval, [this] { return done_; })) drop();
}

void DroppedPages::drop() const {
#ifdef __linux__
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    std::uintptr_t start = 0, end = 0;
    char dash = 0;
    std::string rights, offset, device, inode, path;
    fields >> std::hex >> start >> dash >> end >> rights >> offset >> device >> inode >> std::ws;
    std::getline(fields, path);
    const bool is_constant = path == constants_.string() && rights.find('w') == std::string::npos;
    if (is_constant || is_code(path, rights)) {
      ::madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
    }
  }
#endif
}

}  // namespace pockui
