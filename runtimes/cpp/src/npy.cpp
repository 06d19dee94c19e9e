#include "npy.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <sstream>
#include <vector>

#include "dtypes.hpp"
#include "text.hpp"

namespace pockui {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::string_view kEnding = ".npy";
constexpr std::uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr std::uint32_t kZip64 = 0xffffffff;
constexpr std::size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kLongestComment = 65535;
constexpr std::uint64_t kMostBytes = kZip64 - 1;

// ---------------------------------------------------------------- numbers in a zip file

std::uint32_t number(const std::string& bytes, std::size_t at, std::size_t size) {
  if (at + size > bytes.size()) throw FileError("its list of members was cut short");
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i) {
    value |= std::uint32_t{static_cast<unsigned char>(bytes[at + i])} << 8 * i;
  }
  return value;
}

void put(std::string& into, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) into += static_cast<char>(value >> 8 * i & 0xff);
}

std::string text_at(const InputFile& file, std::uint64_t offset, std::uint64_t size) {
  if (offset > file.size() || size > file.size() - offset) throw FileError("it was cut short");
  std::string text(size, '\0');
  file.read(offset, text.data(), text.size());
  return text;
}

/// CRC-32, as zip files have it.
class Crc32 {
 public:
  void update(const void* data, std::size_t size) {
    static const std::array<std::uint32_t, 256> table = made_table();
    const auto* bytes = static_cast<const std::uint8_t*>(data);
    for (std::size_t i = 0; i < size; ++i) value_ = table[(value_ ^ bytes[i]) & 0xff] ^ value_ >> 8;
  }
  std::uint32_t value() const { return ~value_; }

 private:
  static std::array<std::uint32_t, 256> made_table() {
    std::array<std::uint32_t, 256> table;
    for (std::uint32_t i = 0; i < table.size(); ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) table[i] = table[i] & 1 ? table[i] >> 1 ^ 0xedb88320 : table[i] >> 1;
    }
    return table;
  }

  std::uint32_t value_ = 0xffffffff;
};

// ---------------------------------------------------------------- the header of an array

/// The text after `'key':` in the header's Python dict, up to where `end` begins.
std::string field(const std::string& header, const std::string& key, char end) {
  const std::size_t name = header.find("'" + key + "':");
  const std::size_t start =
      name == std::string::npos ? name : header.find_first_not_of(' ', name + key.size() + 3);
  const std::size_t stop = start == std::string::npos ? start : header.find(end, start + 1);
  if (stop == std::string::npos) throw FileError("the header of an array is not valid");
  return header.substr(start, stop - start);
}

DType parsed_dtype(const std::string& header) {
  const std::string quoted_name = field(header, "descr", ',');  // structures have a list there
  if (quoted_name.size() < 3) throw FileError("the header of an array is not valid");
  const std::string name = quoted_name.substr(1, quoted_name.size() - 2);
  if (const auto dtype = dtype_of_npy(name)) return *dtype;
  if (name[0] == '>') throw FileError("an array is big-endian: save it with a dtype such as '<f4'");
  if (name == "|O") throw FileError("it holds Python objects instead of numbers");
  throw FileError("it holds an array of dtype " + in_quotes(name) + ", which is not a number");
}

Shape parsed_shape(const std::string& header) {
  const std::string text = field(header, "shape", ')');  // `(8, 3`
  Shape shape;
  const char* at = text.data() + 1;
  const char* const end = text.data() + text.size();
  while (at != end) {
    if (*at == ' ' || *at == ',') {
      ++at;
      continue;
    }
    std::size_t n = 0;
    const auto [next, error] = std::from_chars(at, end, n);
    if (error != std::errc{} || n > kMostBytes) throw FileError("the shape of an array is not valid");
    shape.push_back(n);
    at = next;
  }
  return shape;
}

std::uint64_t bytes_of(DType dtype, const Shape& shape) {
  std::uint64_t bytes = size_of(dtype);
  for (const std::size_t n : shape) {
    if (n && bytes > kMostBytes / n) throw FileError("an array claims to be larger than 4 GB");
    bytes *= n;
  }
  return bytes;
}

std::string npy_header(const Array& array) {
  std::ostringstream dict;
  dict << "{'descr': '" << npy_name(array.dtype()) << "', 'fortran_order': False, 'shape': (";
  for (const std::size_t n : array.shape()) dict << n << ", ";
  dict << "), }";
  std::string text = dict.str();
  if (array.shape().empty()) text = text.substr(0, text.find('(')) + "(), }";
  const std::size_t fixed = kMagic.size() + 4;
  text.resize((fixed + text.size() + 1 + 63) / 64 * 64 - fixed - 1, ' ');
  std::string header(kMagic);
  put(header, 1, 2);  // version 1.0
  put(header, text.size() + 1, 2);
  return header + text + "\n";
}

}  // namespace

// ---------------------------------------------------------------- reading

NumpyFile::NumpyFile(const std::filesystem::path& path, const std::string& only_name) : file_(path) {
  if (file_.size() > kMostBytes) throw FileError("it is larger than 4 GB: split it");
  const std::string start = text_at(file_, 0, std::min<std::uint64_t>(kMagic.size(), file_.size()));
  if (start == kMagic) {
    members_.emplace(only_name, parsed_array(0, file_.size()));
  } else if (start.substr(0, 2) == "PK") {
    read_archive();
  } else {
    throw FileError("it is another kind of file");
  }
}

void NumpyFile::read_archive() {
  const std::uint64_t tail = std::min<std::uint64_t>(file_.size(), kEndBytes + kLongestComment);
  const std::string ending = text_at(file_, file_.size() - tail, tail);
  std::string signature;
  put(signature, kEnd, 4);
  const std::size_t end = ending.rfind(signature);
  if (end == std::string::npos || ending.size() - end < kEndBytes) throw FileError("it was cut short");
  const std::uint32_t count = number(ending, end + 10, 2);
  const std::string list = text_at(file_, number(ending, end + 16, 4), number(ending, end + 12, 4));
  std::size_t at = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (number(list, at, 4) != kCentral) throw FileError("its list of members is not valid");
    const std::uint32_t flags = number(list, at + 8, 2), method = number(list, at + 10, 2);
    const std::uint32_t checksum = number(list, at + 16, 4), stored = number(list, at + 20, 4);
    const std::uint32_t size = number(list, at + 24, 4), name_size = number(list, at + 28, 2);
    const std::uint32_t offset = number(list, at + 42, 4);
    const std::string member = list.substr(std::min(at + kCentralBytes, list.size()), name_size);
    at += kCentralBytes + name_size + number(list, at + 30, 2) + number(list, at + 32, 2);
    if (stored == kZip64 || size == kZip64 || offset == kZip64)
      throw FileError("it is larger than 4 GB: split it");
    if (flags & 1) throw FileError(member + " is encrypted");
    if (method != 0 || stored != size) {
      throw FileError(member +
                      " is compressed, and this program reads what numpy.savez writes, not "
                      "numpy.savez_compressed");
    }
    const std::string local = text_at(file_, offset, kLocalBytes);
    if (number(local, 0, 4) != kLocal) throw FileError("its list of members is not valid");
    const std::uint64_t start = offset + kLocalBytes + number(local, 26, 2) + number(local, 28, 2);
    if (start > file_.size() || size > file_.size() - start) throw FileError("it was cut short");
    Crc32 found;
    for_each_piece(file_, start, size,
                   [&](const std::byte* data, std::size_t bytes) { found.update(data, bytes); });
    if (found.value() != checksum) throw FileError(member + " is damaged (its checksum differs)");
    const bool array = member.size() > kEnding.size() &&
                       member.compare(member.size() - kEnding.size(), kEnding.size(), kEnding) == 0;
    if (!array) continue;
    const std::string name = member.substr(0, member.size() - kEnding.size());
    if (!members_.emplace(name, parsed_array(start, size)).second) throw FileError(member + " is there twice");
  }
}

NumpyFile::Member NumpyFile::parsed_array(std::uint64_t offset, std::uint64_t size) const {
  const std::string start = text_at(file_, offset, std::min<std::uint64_t>(size, 12));
  if (start.size() < 12 || start.compare(0, kMagic.size(), kMagic) != 0)
    throw FileError("a member is no array");
  const std::uint32_t version = number(start, 6, 1);
  const std::size_t fixed = version == 1 ? 10 : 12;
  const std::uint64_t length = number(start, 8, version == 1 ? 2 : 4);
  if (version < 1 || version > 3 || fixed + length > size)
    throw FileError("the header of an array is not valid");
  const std::string header = text_at(file_, offset + fixed, length);
  if (field(header, "fortran_order", ',') != "False") {
    throw FileError("an array is in Fortran order: save numpy.ascontiguousarray of it");
  }
  Member member{parsed_dtype(header), parsed_shape(header), offset + fixed + length};
  const std::uint64_t claimed = bytes_of(member.dtype, member.shape), held = size - fixed - length;
  if (claimed != held) {
    throw FileError("an array claims " + std::to_string(claimed) + " bytes and holds " +
                    std::to_string(held));
  }
  return member;
}

Array NumpyFile::read(const Member& member) const {
  Array array(member.dtype, member.shape);
  file_.read(member.offset, array.bytes(), array.byte_size());
  return array;
}

Array NumpyFile::read_rows(const Member& member, std::size_t start, std::size_t count) const {
  Shape shape = member.shape;
  shape.at(0) = count;
  Array array(member.dtype, std::move(shape));
  const std::uint64_t row = count ? array.byte_size() / count : 0;
  file_.read(member.offset + start * row, array.bytes(), array.byte_size());
  return array;
}

// ---------------------------------------------------------------- writing

void write_npz(const std::filesystem::path& path, const Arrays& arrays) {
  replace_file(path, [&](std::ostream& out) {
    std::string list;
    std::uint64_t offset = 0;
    for (const auto& [name, array] : arrays) {
      const std::string member = name + std::string(kEnding), header = npy_header(array);
      const std::uint64_t size = header.size() + array.byte_size();
      if (offset + size > kMostBytes) throw FileError("the answers are larger than 4 GB");
      Crc32 checksum;
      checksum.update(header.data(), header.size());
      checksum.update(array.bytes(), array.byte_size());
      std::string described;  // as both lists have it: version, flags (a UTF-8 name), method, time, date, …
      put(described, 20, 2);
      put(described, 0x800, 2);
      put(described, 0, 2);
      put(described, 0x00210000, 4);  // 1 January 1980
      put(described, checksum.value(), 4);
      put(described, size, 4);
      put(described, size, 4);
      put(described, member.size(), 2);
      put(described, 0, 2);
      std::string local;
      put(local, kLocal, 4);
      local += described + member;
      put(list, kCentral, 4);
      put(list, 20, 2);
      list += described;
      put(list, 0, 4);  // comment, disk
      put(list, 0, 6);  // attributes
      put(list, offset, 4);
      list += member;
      out << local << header;
      out.write(reinterpret_cast<const char*>(array.bytes()),
                static_cast<std::streamsize>(array.byte_size()));
      offset += local.size() + size;
    }
    std::string end;
    put(end, kEnd, 4);
    put(end, 0, 4);
    put(end, arrays.size(), 2);
    put(end, arrays.size(), 2);
    put(end, list.size(), 4);
    put(end, offset, 4);
    put(end, 0, 2);
    out << list << end;
  });
}

}  // namespace pockui
