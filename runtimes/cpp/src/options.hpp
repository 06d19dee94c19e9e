#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "pockui/trainer.hpp"

namespace pockui {

/// What is wrong with a command line.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// When a checkpoint is written between the first step and the last.
struct SaveEvery {
  std::int64_t number = 60;
  bool seconds = true;  // else steps
};

struct CommandLine {
  bool help = false, predict = false, json = false;
  std::filesystem::path artifact, data;
  std::optional<std::filesystem::path> eval, save, resume, checkpoint, out;
  std::int64_t steps = 0, every = 10;
  std::optional<double> lr;
  SaveEvery save_every;
  Options options;
};

/// Throws UsageError.
CommandLine parsed_command_line(const std::vector<std::string>& arguments);

extern const char* const kHelp;

}  // namespace pockui
