#include "options.hpp"

#include <charconv>
#include <functional>
#include <limits>
#include <map>

#include "text.hpp"

namespace pockui {

const char* const kHelp =
    R"(usage: train ARTIFACT --data FILE --steps N [options]
       train predict ARTIFACT --data FILE [options]

Train a compiled artefact, or predict with it. (A folder that is called predict: ./predict)

  ARTIFACT             the folder that pockgraph.compile wrote, for the target openvino
  --data FILE          npz with one array [N, ...] per batch entry, as numpy.savez writes it; a single
                       npy where a batch has one entry
  --threads N          CPU threads; by default all cores
  --low-memory         let OpenVINO generate no kernels of its own: tens of megabytes less, and last
                       bits may differ
  --json               print one JSON object a line

train:
  --steps N            how many steps to take
  --lr LR              learning rate; the artefact's own by default
  --eval FILE          data to evaluate on when done
  --save FILE          write a checkpoint here: from time to time, when done, when stopped
  --save-every N|Ns    steps, or with an s seconds, between two checkpoints (default: 60s)
  --resume FILE        continue from this checkpoint
  --on-nonfinite error|skip
                       a step whose batch, loss or update is NaN or infinite changes nothing: stop
                       there (default) and keep the state before it in --save, or skip it
  --every N            steps between two lines of output (default: 10)

predict:
  --checkpoint FILE    weights that were trained; else the artefact's own
  --out FILE           npz to write, an array [N, ...] per output; one without name: 'prediction'

Exit status: 0 done; 2 bad input or training diverged; 128 + a signal that stopped it.
)";

namespace {

std::int64_t count(const std::string& text) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc{} && stop == end && value >= 1 && value <= most) return value;
  throw UsageError(in_quotes(text) + " is no whole number from 1 to " + std::to_string(most));
}

double real(const std::string& text) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc{} && stop == end) return value;
  throw UsageError(in_quotes(text) + " is no number");
}

SaveEvery save_interval(const std::string& text) {
  const bool seconds = !text.empty() && text.back() == 's';
  try {
    return {count(seconds ? text.substr(0, text.size() - 1) : text), seconds};
  } catch (const UsageError&) {
    throw UsageError(in_quotes(text) + " is neither steps (500) nor seconds (60s)");
  }
}

OnNonfinite policy(const std::string& text) {
  if (text == "error") return OnNonfinite::error;
  if (text == "skip") return OnNonfinite::skip;
  throw UsageError(in_quotes(text) + " is neither 'error' nor 'skip'");
}

using Setters = std::map<std::string, std::function<void(const std::string&)>>;

/// What each option of a command sets.
Setters setters(CommandLine& line) {
  Setters common{{"--data", [&](auto& text) { line.data = text; }},
                 {"--threads", [&](auto& text) { line.options.threads = static_cast<int>(count(text)); }}};
  if (line.predict) {
    common["--checkpoint"] = [&](auto& text) { line.checkpoint = text; };
    common["--out"] = [&](auto& text) { line.out = text; };
    return common;
  }
  common["--steps"] = [&](auto& text) { line.steps = count(text); };
  common["--lr"] = [&](auto& text) { line.lr = real(text); };
  common["--eval"] = [&](auto& text) { line.eval = text; };
  common["--save"] = [&](auto& text) { line.save = text; };
  common["--save-every"] = [&](auto& text) { line.save_every = save_interval(text); };
  common["--resume"] = [&](auto& text) { line.resume = text; };
  common["--on-nonfinite"] = [&](auto& text) { line.options.on_nonfinite = policy(text); };
  common["--every"] = [&](auto& text) { line.every = count(text); };
  return common;
}

void require_complete(const CommandLine& line) {
  if (line.artifact.empty()) throw UsageError("the artefact's folder is missing");
  if (line.data.empty()) throw UsageError("--data is missing");
  if (!line.predict && line.steps == 0) throw UsageError("--steps is missing");
}

}  // namespace

CommandLine parsed_command_line(const std::vector<std::string>& arguments) {
  CommandLine line;
  std::size_t at = 0;
  line.predict = !arguments.empty() && arguments[0] == "predict";
  if (line.predict) ++at;
  const Setters known = setters(line);
  for (; at < arguments.size(); ++at) {
    const std::string& argument = arguments[at];
    if (argument == "--help" || argument == "-h") {
      line.help = true;
      return line;
    }
    if (argument == "--json") {
      line.json = true;
    } else if (argument == "--low-memory") {
      line.options.low_memory = true;
    } else if (argument.rfind("--", 0) == 0) {
      const std::size_t equals = argument.find('=');
      const std::string name = argument.substr(0, equals);
      const auto setter = known.find(name);
      if (setter == known.end()) throw UsageError("there is no option " + name);
      const bool next = equals == std::string::npos;
      if (next && ++at == arguments.size()) throw UsageError(name + " needs a value");
      try {
        setter->second(next ? arguments[at] : argument.substr(equals + 1));
      } catch (const UsageError& e) {
        throw UsageError(name + ": " + e.what());
      }
    } else if (line.artifact.empty()) {
      line.artifact = argument;
    } else {
      throw UsageError(in_quotes(argument) + " is one argument too many");
    }
  }
  require_complete(line);
  return line;
}

}  // namespace pockui
