#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "manifest.hpp"
#include "pockui/array.hpp"

namespace pockui {

/// State slots by name, the number of steps that led to them, and the seed of these steps.
struct Checkpoint {
  Arrays state;
  std::int64_t step = 0, seed = 0;
};

/// Read a checkpoint of this artefact, or of one with the same model, plan and frozen weights.
///
/// Throws ArtifactError: missing, cut short, changed, or made for something else.
Checkpoint load_checkpoint(const std::filesystem::path& path, const Manifest& manifest);

/// Write a checkpoint, whole or not at all.
///
/// Args: value: of a state slot; asked for twice, so that one is in memory at a time.
///
/// Throws ArtifactError: it cannot be written, or what is there is no checkpoint. NonFiniteLoss: the state
/// holds NaN or infinite values.
void save_checkpoint(const std::filesystem::path& path, const Manifest& manifest, std::int64_t step,
                     std::int64_t seed, const std::function<Array(const Slot&)>& value);

/// Refuse to write a checkpoint over what is none. Throws ArtifactError.
void require_replaceable(const std::filesystem::path& path);

/// The value of a state slot that the artefact was compiled with.
///
/// Args: use: is given each of `slots` and its value, one after the other.
///
/// Throws ArtifactError: the file lacks it, or has another shape or dtype.
void for_each_initial(const std::filesystem::path& folder, const std::vector<Slot>& slots,
                      const std::function<void(const Slot&, const Array&)>& use);

}  // namespace pockui
