#include "dtypes.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace pockui {
namespace {

struct Description {
  DType dtype;
  Kind kind;
  std::size_t size;
  std::string_view name, safetensors, npy;
};

// In the order of DType.
constexpr std::array<Description, 13> kDescriptions{{
    {DType::boolean, Kind::boolean, 1, "bool", "BOOL", "|b1"},
    {DType::int8, Kind::integer, 1, "int8", "I8", "|i1"},
    {DType::int16, Kind::integer, 2, "int16", "I16", "<i2"},
    {DType::int32, Kind::integer, 4, "int32", "I32", "<i4"},
    {DType::int64, Kind::integer, 8, "int64", "I64", "<i8"},
    {DType::uint8, Kind::integer, 1, "uint8", "U8", "|u1"},
    {DType::uint16, Kind::integer, 2, "uint16", "U16", "<u2"},
    {DType::uint32, Kind::integer, 4, "uint32", "U32", "<u4"},
    {DType::uint64, Kind::integer, 8, "uint64", "U64", "<u8"},
    {DType::float16, Kind::real, 2, "float16", "F16", "<f2"},
    {DType::bfloat16, Kind::real, 2, "bfloat16", "BF16", ""},
    {DType::float32, Kind::real, 4, "float32", "F32", "<f4"},
    {DType::float64, Kind::real, 8, "float64", "F64", "<f8"},
}};

const Description& described(DType dtype) { return kDescriptions[static_cast<std::size_t>(dtype)]; }

std::optional<DType> found(std::string_view Description::* field, std::string_view name) {
  const auto at = std::find_if(kDescriptions.begin(), kDescriptions.end(),
                               [&](const Description& d) { return !name.empty() && d.*field == name; });
  return at == kDescriptions.end() ? std::nullopt : std::optional(at->dtype);
}

template <typename T>
T element(const std::byte* bytes, std::size_t i) {
  T value;
  std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
  return value;
}

/// Element `i` of an array of integers or booleans; nothing beyond the largest int64.
std::optional<std::int64_t> integer_at(const Array& array, std::size_t i) {
  const std::byte* bytes = array.bytes();
  switch (array.dtype()) {
    case DType::boolean:
    case DType::uint8:
      return element<std::uint8_t>(bytes, i);
    case DType::int8:
      return element<std::int8_t>(bytes, i);
    case DType::int16:
      return element<std::int16_t>(bytes, i);
    case DType::int32:
      return element<std::int32_t>(bytes, i);
    case DType::int64:
      return element<std::int64_t>(bytes, i);
    case DType::uint16:
      return element<std::uint16_t>(bytes, i);
    case DType::uint32:
      return element<std::uint32_t>(bytes, i);
    case DType::uint64: {
      const auto value = element<std::uint64_t>(bytes, i);
      constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      return value > largest ? std::nullopt : std::optional(static_cast<std::int64_t>(value));
    }
    default:
      return std::nullopt;
  }
}

double half_to_double(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction | 0x400, exponent - 25);
  if (exponent == 0x1f) {
    value = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  }
  return bits & 0x8000 ? -value : value;
}

template <typename T>
bool put(Array& into, std::size_t i, std::int64_t value) {
  const auto narrow = static_cast<T>(value);
  const bool fits = static_cast<std::int64_t>(narrow) == value && (std::is_signed_v<T> || value >= 0);
  std::memcpy(into.bytes() + i * sizeof(T), &narrow, sizeof(T));
  return fits;
}

template <typename T>
void put_real(Array& into, std::size_t i, double value) {
  const auto rounded = static_cast<T>(value);
  std::memcpy(into.bytes() + i * sizeof(T), &rounded, sizeof(T));
}

/// Whether the value fits.
bool put_integer(Array& into, std::size_t i, std::int64_t value) {
  switch (into.dtype()) {
    case DType::boolean:
      return put<std::uint8_t>(into, i, value) && value <= 1;
    case DType::int8:
      return put<std::int8_t>(into, i, value);
    case DType::int16:
      return put<std::int16_t>(into, i, value);
    case DType::int32:
      return put<std::int32_t>(into, i, value);
    case DType::int64:
      return put<std::int64_t>(into, i, value);
    case DType::uint8:
      return put<std::uint8_t>(into, i, value);
    case DType::uint16:
      return put<std::uint16_t>(into, i, value);
    case DType::uint32:
      return put<std::uint32_t>(into, i, value);
    case DType::uint64:
      return put<std::uint64_t>(into, i, value);
    default:
      return false;
  }
}

/// Whether no element has all bits of the exponent `mask` set, as NaN and infinite ones have.
template <typename T>
bool no_exponent(const std::byte* bytes, std::size_t count, T mask) {
  bool any = false;
  for (std::size_t i = 0; i < count; ++i) any |= (element<T>(bytes, i) & mask) == mask;
  return !any;
}

std::optional<Array> cast_to_real(const Array& array, DType dtype) {
  // Integers are no floats: an image of bytes was hardly normalised. A single number may be one.
  const bool allowed = kind_of(array.dtype()) != Kind::integer || array.shape().empty();
  if (!allowed || (dtype != DType::float32 && dtype != DType::float64)) return std::nullopt;
  Array made(dtype, array.shape());
  for (std::size_t i = 0; i < array.size(); ++i) {
    const double value = real_at(array, i);
    dtype == DType::float32 ? put_real<float>(made, i, value) : put_real<double>(made, i, value);
  }
  return made;
}

}  // namespace

std::string_view name_of(DType dtype) { return described(dtype).name; }
std::size_t size_of(DType dtype) { return described(dtype).size; }
Kind kind_of(DType dtype) { return described(dtype).kind; }
std::string_view safetensors_name(DType dtype) { return described(dtype).safetensors; }
std::string_view npy_name(DType dtype) { return described(dtype).npy; }
std::optional<DType> dtype_named(std::string_view name) { return found(&Description::name, name); }
std::optional<DType> dtype_of_safetensors(std::string_view name) {
  return found(&Description::safetensors, name);
}
std::optional<DType> dtype_of_npy(std::string_view name) { return found(&Description::npy, name); }

std::size_t elements_of(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

Array::Array(DType dtype, Shape shape)
    : dtype_(dtype), shape_(std::move(shape)), held_(elements_of(shape_) * size_of(dtype)) {}

double real_at(const Array& array, std::size_t i) {
  const std::byte* bytes = array.bytes();
  switch (array.dtype()) {
    case DType::float32:
      return static_cast<double>(element<float>(bytes, i));
    case DType::float64:
      return element<double>(bytes, i);
    case DType::float16:
      return half_to_double(element<std::uint16_t>(bytes, i));
    case DType::bfloat16: {
      const std::uint32_t bits = std::uint32_t{element<std::uint16_t>(bytes, i)} << 16;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return static_cast<double>(value);
    }
    case DType::uint64:
      return static_cast<double>(element<std::uint64_t>(bytes, i));
    default:
      return static_cast<double>(integer_at(array, i).value_or(0));
  }
}

bool is_finite(DType dtype, const std::byte* bytes, std::size_t count) {
  switch (dtype) {
    case DType::float16:
      return no_exponent<std::uint16_t>(bytes, count, 0x7c00);
    case DType::bfloat16:
      return no_exponent<std::uint16_t>(bytes, count, 0x7f80);
    case DType::float32:
      return no_exponent<std::uint32_t>(bytes, count, 0x7f800000);
    case DType::float64:
      return no_exponent<std::uint64_t>(bytes, count, 0x7ff0000000000000);
    default:
      return true;
  }
}

bool is_finite(const Array& array) { return is_finite(array.dtype(), array.bytes(), array.size()); }

std::optional<Array> cast(const Array& array, DType dtype) {
  if (array.dtype() == dtype) return array;
  if (kind_of(dtype) == Kind::real) return cast_to_real(array, dtype);
  if (kind_of(array.dtype()) == Kind::real) return std::nullopt;
  Array made(dtype, array.shape());
  for (std::size_t i = 0; i < array.size(); ++i) {
    const auto value = integer_at(array, i);
    if (!value || !put_integer(made, i, *value)) return std::nullopt;
  }
  return made;
}

Array rows(const Array& array, std::size_t start, std::size_t count) {
  Shape shape = array.shape();
  const std::size_t row = shape.at(0) ? array.byte_size() / shape[0] : 0;
  shape[0] = count;
  Array made(array.dtype(), std::move(shape));
  if (made.byte_size()) std::memcpy(made.bytes(), array.bytes() + start * row, made.byte_size());
  return made;
}

Array joined(const std::vector<Array>& parts) {
  Shape shape = parts.at(0).shape();
  shape.at(0) = 0;
  for (const Array& part : parts) shape[0] += part.shape()[0];
  Array made(parts[0].dtype(), std::move(shape));
  std::byte* at = made.bytes();
  for (const Array& part : parts) at = std::copy_n(part.bytes(), part.byte_size(), at);
  return made;
}

}  // namespace pockui
