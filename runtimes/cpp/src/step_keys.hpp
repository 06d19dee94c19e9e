#pragma once

#include <array>
#include <cstdint>

namespace pockui {

/// The `seed` input of the step after `step` others: four multiples of 2^-11, the same on every target.
std::array<float, 4> step_keys(std::int64_t seed, std::int64_t step);

}  // namespace pockui
