#pragma once

#include <cstdint>

namespace highgrad::engine {

// One level of torch.vmap (functorch) for the life of the object. Takes the GIL for the push and the pop.
class VmapLevel {
 public:
  explicit VmapLevel(int64_t batch_size);
  ~VmapLevel();
  VmapLevel(const VmapLevel&) = delete;
  VmapLevel& operator=(const VmapLevel&) = delete;

  int64_t level() const {
    return level_;
  }

  int64_t batch_size() const {
    return batch_size_;
  }

 private:
  int64_t batch_size_;
  int64_t level_;
};

// Outside of `level`, the innermost one, for the life of the object.
class OutsideVmapLevel {
 public:
  explicit OutsideVmapLevel(const VmapLevel& level);
  ~OutsideVmapLevel();
  OutsideVmapLevel(const OutsideVmapLevel&) = delete;
  OutsideVmapLevel& operator=(const OutsideVmapLevel&) = delete;

 private:
  const VmapLevel& level_;
};

} // namespace highgrad::engine
