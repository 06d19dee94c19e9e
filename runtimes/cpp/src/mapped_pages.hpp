#pragma once

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

namespace pockui {

/// While OpenVINO compiles, keep few pages of mapped files in memory, and none right after; on Linux.
///
/// It maps the file of the constants, reads it once, and computes from copies in the order of its kernels;
/// and of the 60 MB of its own code it runs most only while it compiles. A page that is needed after all
/// comes back from its file.
class DroppedPages {
 public:
  /// Args: constants: the file of the constants.
  explicit DroppedPages(const std::filesystem::path& constants);
  DroppedPages(const DroppedPages&) = delete;
  DroppedPages& operator=(const DroppedPages&) = delete;
  ~DroppedPages();

 private:
  void drop_now_and_then();
  void drop() const;

  std::filesystem::path constants_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread dropping_;
};

}  // namespace pockui
