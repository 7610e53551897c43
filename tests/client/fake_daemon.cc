// Stands in for eigsvcd in its private mode: listens where it is told, says so, ends when its stdin closes,
// and removes the directory that its client made for it. FAKE_DAEMON in the environment: "dies" before it
// listens, "mumbles" instead of the ready line, "hangs" jobs.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include "tests/client/fake_server.h"

int main(int argc, char** argv) {
  const char* value = std::getenv("FAKE_DAEMON");
  const std::string behaviour = value == nullptr ? "" : value;
  std::string listen, scratch;
  bool private_server = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--private-server") == 0) private_server = true;
    if (std::strcmp(argv[i], "--listen") == 0 && i + 1 < argc) listen = argv[++i];
    if (std::strcmp(argv[i], "--scratch-dir") == 0 && i + 1 < argc) scratch = argv[++i];
  }
  if (!private_server || listen.rfind("unix:", 0) != 0) return 2;
  if (behaviour == "dies") {
    std::fprintf(stderr, "no worker binary\n");
    return 3;
  }
  eigsvc::cli::testing::FakeServer server(listen);
  server.hang = behaviour == "hangs";
  std::printf("%s\n", behaviour == "mumbles" ? "hello" : ("listening " + server.address()).c_str());
  std::fflush(stdout);
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  std::error_code ignored;
  if (!scratch.empty()) std::filesystem::remove_all(scratch, ignored);
  return 0;
}
