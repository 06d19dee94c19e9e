#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "npy.hpp"
#include "pockui/array.hpp"

namespace pockui {

/// Arrays `[N, ...]` by batch entry, read in fixed batches, from the start again at the end.
///
/// An entry that has no samples (its first dimension is not the batch's) goes whole into every batch. Only
/// the batch is in memory.
class DataFile {
 public:
  /// Throws BatchError: the file cannot be read, lacks an entry, or its arrays differ in length.
  static DataFile for_training(const std::filesystem::path& path, const Manifest& manifest);
  static DataFile for_prediction(const std::filesystem::path& path, const Manifest& manifest);

  /// The batch of a step, as the runtime in Python takes it: `number` decides where it begins.
  Arrays batch(std::size_t number) const;

  /// Up to a batch of samples from `start` on, and no more than there are.
  Arrays samples_from(std::size_t start) const;

  std::size_t samples() const noexcept { return samples_; }
  std::size_t batch_size() const noexcept { return batch_size_; }

 private:
  DataFile(const std::filesystem::path& path, const BatchSpec& spec, const std::vector<std::string>& rows,
           std::size_t batch_size, const std::string& holds);

  Arrays taken(std::size_t start, std::size_t count) const;

  std::string path_;
  NumpyFile file_;
  std::map<std::string, NumpyFile::Member> rows_;
  Arrays whole_;
  std::size_t batch_size_, samples_ = 0;
};

}  // namespace pockui
