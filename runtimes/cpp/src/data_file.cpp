#include "data_file.hpp"

#include <algorithm>

#include "batch.hpp"
#include "dtypes.hpp"
#include "pockui/errors.hpp"
#include "text.hpp"

namespace pockui {
namespace {

[[noreturn]] void refuse(const std::string& path, const FileError& error) {
  throw BatchError("Cannot read " + path + " as an npz file: " + error.what() +
                   ". Write it with numpy.savez.");
}

NumpyFile opened(const std::filesystem::path& path, const BatchSpec& spec) {
  try {
    return NumpyFile(path, spec.size() == 1 ? spec[0].name : "");
  } catch (const FileError& e) {
    refuse(path.string(), e);
  }
}

std::string holds(const Manifest& manifest, const BatchSpec& spec) {
  return "A batch of task " + in_quotes(manifest.task) + " holds " + describe(spec) + ".";
}

}  // namespace

DataFile DataFile::for_training(const std::filesystem::path& path, const Manifest& manifest) {
  const std::size_t samples = manifest.samples();
  std::vector<std::string> rows;
  for (const Entry& entry : manifest.batch) {
    if (entry.has_rows(samples)) rows.push_back(entry.name);
  }
  return DataFile(path, manifest.batch, rows, samples, holds(manifest, manifest.batch));
}

DataFile DataFile::for_prediction(const std::filesystem::path& path, const Manifest& manifest) {
  const Prediction& largest = manifest.predict.back();
  return DataFile(path, largest.batch, rows_of(manifest.predict), largest.samples.value_or(1),
                  holds(manifest, largest.batch));
}

DataFile::DataFile(const std::filesystem::path& path, const BatchSpec& spec,
                   const std::vector<std::string>& rows, std::size_t batch_size, const std::string& holds)
    : path_(path.string()), file_(opened(path, spec)), batch_size_(batch_size) {
  std::vector<std::string> missing;
  for (const Entry& entry : spec) {
    if (!file_.members().count(entry.name)) missing.push_back(in_quotes(entry.name));
  }
  if (!missing.empty()) {
    throw BatchError(path_ + " lacks " + listing(missing) + ". " + holds +
                     " The file needs an array for each.");
  }
  std::vector<std::string> lengths;
  bool equal = true;
  for (const Entry& entry : spec) {
    const NumpyFile::Member& member = file_.members().at(entry.name);
    if (std::find(rows.begin(), rows.end(), entry.name) == rows.end()) {
      whole_.emplace(entry.name, file_.read(member));
      continue;
    }
    const std::size_t length = member.shape.empty() ? 0 : member.shape[0];
    equal = equal && (rows_.empty() || length == samples_);
    samples_ = length;
    rows_.emplace(entry.name, member);
    lengths.push_back(in_quotes(entry.name) + ": " + std::to_string(length));
  }
  if (rows_.empty()) samples_ = batch_size_;
  if (!equal) {
    throw BatchError("The arrays of " + path_ + " need one common number of samples, not {" +
                     listing(lengths) + "}. " + holds);
  }
  if (samples_ == 0) throw BatchError(path_ + " holds no samples. " + holds);
}

Arrays DataFile::batch(std::size_t number) const {
  const std::size_t start = number % samples_ * (batch_size_ % samples_) % samples_;
  if (start + batch_size_ <= samples_) return taken(start, batch_size_);
  std::map<std::string, std::vector<Array>> parts;  // round the end, more than once where the file is short
  for (std::size_t done = 0; done < batch_size_;) {
    const std::size_t from = (start + done) % samples_;
    const std::size_t count = std::min(batch_size_ - done, samples_ - from);
    for (auto& [name, array] : taken(from, count)) {
      if (rows_.count(name)) parts[name].push_back(std::move(array));
    }
    done += count;
  }
  Arrays batch = whole_;
  for (const auto& [name, arrays] : parts) batch.emplace(name, joined(arrays));
  return batch;
}

Arrays DataFile::samples_from(std::size_t start) const {
  return taken(start, std::min(batch_size_, samples_ - start));
}

Arrays DataFile::taken(std::size_t start, std::size_t count) const {
  Arrays batch = whole_;
  try {
    for (const auto& [name, member] : rows_) batch.emplace(name, file_.read_rows(member, start, count));
  } catch (const FileError& e) {
    refuse(path_, e);
  }
  return batch;
}

}  // namespace pockui
