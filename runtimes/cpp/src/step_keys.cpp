#include "step_keys.hpp"

#include <string>
#include <utility>

namespace pockui {
namespace {

using Lanes = std::array<std::uint64_t, 25>;  // of Keccak: lane (x, y) at x + 5 y

constexpr std::uint64_t rotated(std::uint64_t x, int n) { return n ? x << n | x >> (64 - n) : x; }

/// Keccak-f[1600] (FIPS 202).
void permute(Lanes& a) {
  unsigned lfsr = 1;
  for (int round = 0; round < 24; ++round) {
    std::array<std::uint64_t, 5> column;
    for (std::size_t x = 0; x < 5; ++x) column[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
    for (std::size_t i = 0; i < a.size(); ++i) a[i] ^= column[(i + 4) % 5] ^ rotated(column[(i + 1) % 5], 1);
    std::size_t x = 1, y = 0;
    std::uint64_t held = a[1];
    for (int t = 0; t < 24; ++t) {
      const std::size_t next = (2 * x + 3 * y) % 5;
      x = std::exchange(y, next);
      held = std::exchange(a[x + 5 * y], rotated(held, (t + 1) * (t + 2) / 2 % 64));
    }
    for (std::size_t row = 0; row < a.size(); row += 5) {
      const std::array<std::uint64_t, 5> r{a[row], a[row + 1], a[row + 2], a[row + 3], a[row + 4]};
      for (std::size_t i = 0; i < 5; ++i) a[row + i] = r[i] ^ (~r[(i + 1) % 5] & r[(i + 2) % 5]);
    }
    for (int j = 0; j < 7; ++j) {
      if (lfsr & 1) a[0] ^= std::uint64_t{1} << ((1 << j) - 1);
      lfsr = lfsr & 0x80 ? (lfsr << 1 ^ 0x171) : lfsr << 1;
    }
  }
}

/// The first eight bytes of SHAKE-256 of a text of up to 135 bytes, little-endian.
std::uint64_t shake256(const std::string& message) {
  constexpr std::size_t rate = 136;
  Lanes lanes{};
  const auto absorb = [&](std::size_t at, unsigned byte) {
    lanes[at / 8] ^= std::uint64_t{byte} << 8 * (at % 8);
  };
  for (std::size_t i = 0; i < message.size(); ++i) absorb(i, static_cast<unsigned char>(message[i]));
  absorb(message.size(), 0x1f);
  absorb(rate - 1, 0x80);
  permute(lanes);
  return lanes[0];
}

}  // namespace

std::array<float, 4> step_keys(std::int64_t seed, std::int64_t step) {
  const std::uint64_t drawn = shake256("pockgraph step " + std::to_string(seed) + " " + std::to_string(step));
  std::array<float, 4> keys;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    keys[i] = static_cast<float>((drawn >> 16 * i & 0xffff) >> 5) / 2048.0F;
  }
  return keys;
}

}  // namespace pockui
