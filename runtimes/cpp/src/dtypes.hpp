#pragma once

#include <optional>
#include <string_view>

#include "pockui/array.hpp"

namespace pockui {

enum class Kind { boolean, integer, real };

Kind kind_of(DType dtype);

/// What safetensors files call a dtype, such as `F32`.
std::string_view safetensors_name(DType dtype);

/// What npy files call a dtype, such as `<f4`; empty where they have no name.
std::string_view npy_name(DType dtype);

std::optional<DType> dtype_named(std::string_view numpy_name);
std::optional<DType> dtype_of_safetensors(std::string_view name);
std::optional<DType> dtype_of_npy(std::string_view name);

/// Element `i` as a number; integers beyond 2^53 are rounded.
double real_at(const Array& array, std::size_t i);

/// Whether no element is NaN or infinite.
bool is_finite(DType dtype, const std::byte* bytes, std::size_t count);
bool is_finite(const Array& array);

/// The array in another dtype, where that is a cast between numbers of one kind that fit: between floats
/// (rounded), between integers, from booleans, and from 0 and 1 to booleans. Else nothing.
std::optional<Array> cast(const Array& array, DType dtype);

/// Rows `start` to `start + count` of an array's first dimension.
Array rows(const Array& array, std::size_t start, std::size_t count);

/// Arrays of equal rows, one after the other.
Array joined(const std::vector<Array>& parts);

}  // namespace pockui
