#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pockui/array.hpp"

namespace pockui {

/// The first eight items, comma-separated, with a count of the rest.
std::string listing(const std::vector<std::string>& items);

/// `'x'`.
std::string in_quotes(std::string_view text);

/// `[8, 3, 32, 32]`.
std::string to_text(const Shape& shape);

/// `value` with so many digits after the point.
std::string fixed_point(double value, int digits);

/// `value` with up to six digits, as `%g` writes it.
std::string brief(double value);

}  // namespace pockui
