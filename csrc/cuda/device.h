// What the CUDA runtime says about this machine. Nothing here throws when there is no driver.
#pragma once
#include <string>

namespace pyface {

// The number of usable devices; when it is 0, `why` says what the runtime answered.
int cuda_device_count(std::string& why);
// Version of the CUDA runtime linked in, e.g. 13000.
int cuda_runtime_version();

}  // namespace pyface
