#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace pockui {

enum class DType {
  boolean,
  int8,
  int16,
  int32,
  int64,
  uint8,
  uint16,
  uint32,
  uint64,
  float16,
  bfloat16,
  float32,
  float64
};

/// NumPy's name of a dtype, such as `float32`.
std::string_view name_of(DType dtype);

/// Bytes of one element.
std::size_t size_of(DType dtype);

/// The dtype that holds values of the C++ type `T`; `bool` is a byte.
template <typename T>
constexpr DType dtype_of() {
  static_assert(std::is_arithmetic_v<T>, "an array holds numbers");
  if constexpr (std::is_same_v<T, bool>) return DType::boolean;
  if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? DType::float32 : DType::float64;
  constexpr bool is_signed = std::is_signed_v<T>;
  if constexpr (sizeof(T) == 1) return is_signed ? DType::int8 : DType::uint8;
  if constexpr (sizeof(T) == 2) return is_signed ? DType::int16 : DType::uint16;
  if constexpr (sizeof(T) == 4) return is_signed ? DType::int32 : DType::uint32;
  return is_signed ? DType::int64 : DType::uint64;
}

using Shape = std::vector<std::size_t>;

/// How many elements an array of a shape has: 1 for the empty shape of a number.
std::size_t elements_of(const Shape& shape);

/// Numbers in C order. Values are copied with it.
class Array {
 public:
  /// Zeros.
  explicit Array(DType dtype = DType::float32, Shape shape = {});

  /// `values`, which must be as many as `shape` has elements.
  template <typename T>
  static Array of(Shape shape, const std::vector<T>& values) {
    static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no bytes: pass std::uint8_t");
    Array array(dtype_of<T>(), std::move(shape));
    if (values.size() != array.size()) throw std::invalid_argument("an array needs a value for each element");
    if (!values.empty()) std::memcpy(array.bytes(), values.data(), array.byte_size());
    return array;
  }

  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  std::size_t size() const noexcept { return held_.size() / size_of(dtype_); }
  std::size_t byte_size() const noexcept { return held_.size(); }
  std::byte* bytes() noexcept { return held_.data(); }
  const std::byte* bytes() const noexcept { return held_.data(); }

  /// A copy of the values.
  ///
  /// Throws std::invalid_argument: they are of another type.
  template <typename T>
  std::vector<T> values() const {
    if (dtype_of<T>() != dtype_)
      throw std::invalid_argument("the array holds " + std::string(name_of(dtype_)));
    std::vector<T> copy(size());
    if (!copy.empty()) std::memcpy(copy.data(), bytes(), byte_size());
    return copy;
  }

 private:
  DType dtype_;
  Shape shape_;
  std::vector<std::byte> held_;
};

/// Arrays by name: the entries of a batch, or what is predicted.
using Arrays = std::map<std::string, Array>;

}  // namespace pockui
