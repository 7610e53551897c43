// Archives made in memory by libarchive, for the readers' tests.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace eigsvc::testing {

using Files = std::vector<std::pair<std::string, std::string>>;  // name, contents

enum class Packing { kTar, kTarGz, kZip };

inline std::string Pack(Packing packing, const Files& files) {
  std::string bytes(size_t{1} << 16, '\0');
  for (const auto& [name, contents] : files) bytes.resize(bytes.size() + 4096 + 2 * contents.size());
  archive* const out = archive_write_new();
  if (packing == Packing::kZip) {
    archive_write_set_format_zip(out);
  } else {
    archive_write_set_format_pax_restricted(out);
    archive_write_set_format_option(out, "pax", "hdrcharset", "BINARY");  // names as they are, in any locale
    if (packing == Packing::kTarGz) archive_write_add_filter_gzip(out);
  }
  size_t used = 0;
  EXPECT_EQ(archive_write_open_memory(out, bytes.data(), bytes.size(), &used), ARCHIVE_OK);
  for (const auto& [name, contents] : files) {
    archive_entry* const entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_filetype(entry, name.back() == '/' ? AE_IFDIR : AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, static_cast<int64_t>(contents.size()));
    EXPECT_EQ(archive_write_header(out, entry), ARCHIVE_OK) << archive_error_string(out);
    EXPECT_EQ(archive_write_data(out, contents.data(), contents.size()),
              static_cast<la_ssize_t>(contents.size()));
    archive_entry_free(entry);
  }
  EXPECT_EQ(archive_write_close(out), ARCHIVE_OK);
  archive_write_free(out);
  bytes.resize(used);
  return bytes;
}

inline std::string WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

}  // namespace eigsvc::testing
