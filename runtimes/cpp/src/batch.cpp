#include "batch.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "dtypes.hpp"
#include "pockui/errors.hpp"
#include "text.hpp"

namespace pockui {
namespace {

// What a result says when a check that the graph makes of its own integers failed.
constexpr double kOutOfBounds = -1971322880.0, kInexact = -1954545664.0;

std::string message(const BatchSpec& spec, const std::vector<std::string>& wrong, const std::string& task,
                    const std::string& what) {
  return "This batch does not fit the " + what + " compiled for task " + in_quotes(task) + ": " +
         listing(wrong) + ". A batch holds " + describe(spec) +
         ". Bring the data into that form, or compile the task again with batches of this one.";
}

/// `[2, 0]`, of element `i`.
std::string place(const Shape& shape, std::size_t i) {
  if (shape.empty()) return "";
  Shape at(shape.size());
  for (std::size_t d = shape.size(); d-- > 0; i /= shape[d]) at[d] = i % shape[d];
  return " at " + to_text(at);
}

/// Flat numbers of the elements that a limit is of.
std::vector<std::size_t> part(const Limit& limit, const Shape& shape) {
  if (!limit.whole && limit.slices.empty()) return limit.elements;
  std::vector<std::size_t> found{0};
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const auto n = static_cast<std::int64_t>(shape[d]);
    const auto [start, stop, step] = limit.whole ? std::array<std::int64_t, 3>{0, n, 1} : limit.slices[d];
    std::vector<std::size_t> next;
    for (const std::size_t base : found) {
      for (std::int64_t i = start; i < std::min(stop, n); i += step) {
        next.push_back(base * shape[d] + static_cast<std::size_t>(i));
      }
    }
    found = std::move(next);
  }
  return found;
}

std::string number(double value) { return std::floor(value) == value ? fixed_point(value, 0) : brief(value); }

void check_values(const Array& array, const std::vector<std::size_t>& elements, const Limit& limit,
                  const std::string& about) {
  const auto low = static_cast<double>(limit.low), high = static_cast<double>(limit.high);
  std::vector<std::size_t> bad;
  for (const std::size_t i : elements) {
    const double value = real_at(array, i);
    const bool also = std::any_of(limit.also.begin(), limit.also.end(),
                                  [&](std::int64_t v) { return static_cast<double>(v) == value; });
    if (!(value >= low && value <= high) && !also) bad.push_back(i);
  }
  if (bad.empty()) return;
  std::string text = about + " holds " + number(real_at(array, bad[0])) + place(array.shape(), bad[0]);
  if (bad.size() > 1) text += " (" + std::to_string(bad.size()) + " such values)";
  text += ", but these are " + limit.why + ": " + std::to_string(limit.low);
  if (limit.low < limit.high) text += " to " + std::to_string(limit.high);
  for (std::size_t i = 0; i < limit.also.size(); ++i)
    text += (i ? ", " : ", or ") + std::to_string(limit.also[i]);
  if (!limit.also.empty()) text += " to ignore";
  const std::string otherwise = "Correct the data, or compile a model that has room for it.";
  throw BatchError(text + ". " + (limit.remedy.empty() ? otherwise : limit.remedy));
}

void check_order(const Array& array, const std::vector<std::size_t>& elements, const Limit& limit,
                 const std::string& about) {
  const auto compared = [&](auto wrong) {
    for (std::size_t i = 1; i < elements.size(); ++i) {
      if (wrong(real_at(array, elements[i - 1]), real_at(array, elements[i]))) return true;
    }
    return false;
  };
  if (limit.descending && compared(std::less<>())) {
    throw BatchError(about +
                     " is not in descending order, as pack_padded_sequence(…, enforce_sorted=True) takes "
                     "lengths. Sort the samples of the batch, or build again from a model that passes "
                     "enforce_sorted=False.");
  }
  if (limit.ascending && compared(std::greater<>())) {
    throw BatchError(about + " is not in ascending order, as " + limit.why + " are. " + limit.remedy);
  }
}

}  // namespace

std::string describe(const BatchSpec& spec) {
  std::string text;
  for (std::size_t i = 0; i < spec.size(); ++i) {
    if (i) text += i + 1 == spec.size() ? " and " : ", ";
    text += spec[i].name + " " + std::string(name_of(spec[i].dtype)) + " " + to_text(spec[i].shape);
  }
  return text.empty() ? "nothing" : text;
}

Arrays fit_batch(const BatchSpec& spec, const Arrays& batch, const std::string& task,
                 const std::string& what) {
  std::vector<std::string> wrong;
  Arrays fitted;
  for (const Entry& entry : spec) {
    const auto given = batch.find(entry.name);
    if (given == batch.end()) {
      wrong.push_back(in_quotes(entry.name) + " is missing");
    } else if (given->second.shape() != entry.shape) {
      wrong.push_back(in_quotes(entry.name) + " has shape " + to_text(given->second.shape()) +
                      " instead of " + to_text(entry.shape));
    } else if (auto made = cast(given->second, entry.dtype)) {
      fitted.emplace(entry.name, std::move(*made));
    } else {
      wrong.push_back(in_quotes(entry.name) + " holds " + std::string(name_of(given->second.dtype())) +
                      " instead of " + std::string(name_of(entry.dtype)));
    }
  }
  for (const auto& given : batch) {
    const auto known = [&](const Entry& entry) { return entry.name == given.first; };
    if (std::none_of(spec.begin(), spec.end(), known))
      wrong.push_back(in_quotes(given.first) + " is unexpected");
  }
  if (!wrong.empty()) throw BatchError(message(spec, wrong, task, what));
  return fitted;
}

std::pair<Arrays, std::size_t> pad_batch(const BatchSpec& spec, const Arrays& batch, std::size_t samples,
                                         const std::string& task) {
  std::vector<std::string> rows;
  std::set<std::size_t> counts;
  for (const Entry& entry : spec) {
    const auto given = batch.find(entry.name);
    if (!entry.has_rows(samples) || given == batch.end() || given->second.shape().empty()) continue;
    rows.push_back(entry.name);
    counts.insert(given->second.shape()[0]);
  }
  if (counts.empty() || counts == std::set<std::size_t>{samples})
    return {fit_batch(spec, batch, task, "step"), samples};
  const std::size_t count = *counts.begin();
  if (counts.size() > 1) {
    throw BatchError(message(spec, {"the entries differ in their number of samples"}, task, "step"));
  }
  if (count == 0 || count > samples) {
    const std::string wrong =
        "it has " + std::to_string(count) + " samples, and a batch holds 1 to " + std::to_string(samples);
    throw BatchError(message(spec, {wrong}, task, "step"));
  }
  return {fit_batch(spec, repeat_last_sample(batch, rows, samples - count), task, "step"), count};
}

Arrays repeat_last_sample(Arrays batch, const std::vector<std::string>& names, std::size_t times) {
  if (times == 0) return batch;
  for (const std::string& name : names) {
    Array& array = batch.at(name);
    std::vector<Array> parts(times + 1, rows(array, array.shape()[0] - 1, 1));
    parts[0] = std::move(array);
    array = joined(parts);
  }
  return batch;
}

void check_limits(const Arrays& batch, const std::vector<Limit>& limits, const std::string& task) {
  for (const Limit& limit : limits) {
    const Array& array = batch.at(limit.entry);
    const auto elements = part(limit, array.shape());
    const std::string about = "Batch entry " + in_quotes(limit.entry) + " of task " + in_quotes(task);
    check_values(array, elements, limit, about);
    const auto is_high = [&](std::size_t i) { return real_at(array, i) == static_cast<double>(limit.high); };
    if (limit.reached && std::none_of(elements.begin(), elements.end(), is_high)) {
      throw BatchError(
          about + " never holds " + std::to_string(limit.high) + ", but these are " + limit.why +
          ", and the model pads its sequences to the longest of the batch, for which a compiled step "
          "has one size. Give batches whose longest sequence has that many steps.");
    }
    check_order(array, elements, limit, about);
  }
}

void check_finite(const Arrays& batch, const Checks& checks, const std::string& task) {
  const auto& allowed = checks.nonfinite_entries;
  for (const auto& [name, array] : batch) {
    if (is_finite(array) || (allowed && std::find(allowed->begin(), allowed->end(), name) != allowed->end()))
      continue;
    for (std::size_t i = 0; i < array.size(); ++i) {
      const double value = real_at(array, i);
      if (std::isfinite(value) || (!allowed && std::isinf(value))) continue;
      throw NonFiniteBatch("Batch entry " + in_quotes(name) + " of task " + in_quotes(task) + " holds " +
                           brief(value) + place(array.shape(), i) +
                           ". Clean the data, or leave this batch out.");
    }
  }
}

std::string failed_check(const Array& result, const Checks& checks) {
  const auto all = [&](double mark) {
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (real_at(result, i) != mark) return false;
    }
    return result.size() > 0;
  };
  if (!checks.guards.empty() && all(kOutOfBounds)) {
    return "an index that the model computes from the batch is out of bounds: " + listing(checks.guards) +
           ". PyTorch would raise an error there. Correct the data, or the model.";
  }
  if (!checks.integers.empty() && all(kInexact)) {
    return "an integer that the model computes is beyond 2**24, up to where this target computes exactly: " +
           listing(checks.integers) +
           ". Compute with smaller numbers, such as remainders or days instead of seconds, or take another "
           "target.";
  }
  return "";
}

}  // namespace pockui
