// Input checks of launchers. A failed check throws pyface::Error with op, argument, what came and what is allowed.
#pragma once
#include <stdexcept>
#include <string>

namespace pyface {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The text is built only when the check fails: the macro's third and fourth argument are not evaluated before.
[[noreturn]] inline void fail(const char* op, const char* argument, const std::string& got,
                              const std::string& allowed) {
  throw Error(std::string(op) + ": " + argument + " is " + got + "; allowed: " + allowed + ".");
}

}  // namespace pyface

#define PYFACE_CHECK(ok, op, argument, got, allowed)                \
  do {                                                              \
    if (!(ok)) ::pyface::fail((op), (argument), (got), (allowed)); \
  } while (0)
