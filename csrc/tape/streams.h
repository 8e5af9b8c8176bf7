#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/util/ArrayRef.h>

#include <optional>
#include <vector>

#include "tape/tape.h"

namespace highgrad::tape {

// Note [Streams of the graph]
// torch's engine runs a Node on the stream that its operation ran on, and lets that stream and the caller's wait for
// each other, so a caller need not. What Nodes have saved is read without the engine, too: on the caller's current
// stream. While an object of this class lives, that stream has waited for those of the tapes; in the end they wait for
// it, so that memory that they are given again is not written to before it was read. Nothing on the CPU waits.
class JoinedStreams {
 public:
  explicit JoinedStreams(c10::ArrayRef<Tape> tapes);
  JoinedStreams(const JoinedStreams&) = delete;
  JoinedStreams& operator=(const JoinedStreams&) = delete;
  ~JoinedStreams();

 private:
  struct Pair {
    c10::Stream other;
    c10::Stream current; // of the same device
  };

  std::vector<Pair> pairs_;
};

// The caller's; none on the CPU.
std::optional<c10::Stream> current_stream(c10::Device device);

// Whether a CUDA graph is made of what the current stream of this device is given: then nothing can be read.
bool is_captured(c10::Device device);

// A tensor of the CPU there, without waiting: its memory is read before this returns, unless a graph is captured, whose
// replays would read it; then CUDA refuses it.
at::Tensor copied_to(const at::Tensor& tensor, c10::Device device);

} // namespace highgrad::tape
