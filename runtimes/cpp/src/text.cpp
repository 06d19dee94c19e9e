#include "text.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace pockui {

std::string listing(const std::vector<std::string>& items) {
  constexpr std::size_t limit = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), limit); ++i) text += (i ? ", " : "") + items[i];
  return items.size() > limit ? text + " and " + std::to_string(items.size() - limit) + " more" : text;
}

std::string in_quotes(std::string_view text) { return "'" + std::string(text) + "'"; }

std::string to_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string fixed_point(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string brief(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

}  // namespace pockui
