// PyTorch for CPUs cannot even slice a tensor whose device is "cuda": it looks for the code that
// selects the current GPU. This registers code that does nothing.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
using Nothing = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
C10_REGISTER_GUARD_IMPL(CUDA, Nothing);
}  // namespace
