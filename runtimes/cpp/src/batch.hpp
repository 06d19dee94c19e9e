#pragma once

#include <string>
#include <utility>
#include <vector>

#include "manifest.hpp"
#include "pockui/array.hpp"

namespace pockui {

/// `batch` with exactly the names, shapes and dtypes of `spec`; numbers of one kind are cast.
///
/// Args: what: it is for, in a word.
///
/// Throws BatchError: every difference, what is expected, and what to do.
Arrays fit_batch(const BatchSpec& spec, const Arrays& batch, const std::string& task,
                 const std::string& what);

/// A batch of up to `samples` samples as a full one, its last sample repeated; and how many are real.
///
/// Throws BatchError.
std::pair<Arrays, std::size_t> pad_batch(const BatchSpec& spec, const Arrays& batch, std::size_t samples,
                                         const std::string& task);

/// The entries `names` of a batch with their last sample repeated, `times` times.
Arrays repeat_last_sample(Arrays batch, const std::vector<std::string>& names, std::size_t times);

/// Refuse values that no row of the model stands for. Throws BatchError.
void check_limits(const Arrays& batch, const std::vector<Limit>& limits, const std::string& task);

/// Refuse NaN and infinite values where they may not be. Throws NonFiniteBatch.
void check_finite(const Arrays& batch, const Checks& checks, const std::string& task);

/// Which check of its own a graph speaks of with its result, in words that follow "In step 3 "; or nothing.
std::string failed_check(const Array& result, const Checks& checks);

/// `x float32 [8, 3, 32, 32] and y int64 [8]`.
std::string describe(const BatchSpec& spec);

}  // namespace pockui
