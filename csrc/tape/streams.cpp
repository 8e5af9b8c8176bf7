#include "tape/streams.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#ifdef HIGHGRAD_CUDA
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#endif

#include <algorithm>
#include <exception>

namespace highgrad::tape {
namespace {

// Lets `later` wait for all that `earlier` has been given.
void let_wait(const c10::Stream& later, const c10::Stream& earlier) {
  c10::Event event(earlier.device_type());
  event.record(earlier);
  event.block(later);
}

} // namespace

JoinedStreams::JoinedStreams(c10::ArrayRef<Tape> tapes) {
  for (const Tape& tape : tapes) {
    for (const TapeNode& node : tape.nodes) {
      const auto stream = node.node->stream(); // none on the CPU
      if (!stream.has_value() ||
          std::any_of(pairs_.begin(), pairs_.end(), [&](const Pair& pair) { return pair.other == *stream; })) {
        continue;
      }
      const std::optional<c10::Stream> current = current_stream(stream->device());
      if (current != stream) {
        pairs_.push_back({*stream, *current});
      }
    }
  }
  for (const Pair& pair : pairs_) {
    let_wait(pair.current, pair.other);
  }
}

JoinedStreams::~JoinedStreams() {
  try {
    for (const Pair& pair : pairs_) {
      let_wait(pair.other, pair.current);
    }
  } catch (const std::exception&) {
    // The device has failed, which whatever is launched next tells.
  }
}

std::optional<c10::Stream> current_stream(c10::Device device) {
  return device.is_cpu() ? std::nullopt : std::optional(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

bool is_captured(c10::Device device) {
#ifdef HIGHGRAD_CUDA
  if (device.is_cuda()) {
    const c10::cuda::CUDAGuard guard(device);
    return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  }
#endif
  return false;
}

at::Tensor copied_to(const at::Tensor& tensor, c10::Device device) {
  return tensor.to(device, tensor.scalar_type(), /*non_blocking=*/!is_captured(device));
}

} // namespace highgrad::tape
