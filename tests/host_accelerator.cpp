// An accelerator whose memory is the host's: tensors of its own device, with values, which the CPU's kernels compute.
// Streams run nothing; which waited for which is listed, and so is what the host has to wait for.

#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;

// ---- Streams

thread_local int64_t current = 0;
std::mutex mutex;
std::vector<int64_t> waits; // pairs: who waits, and for whom

c10::Stream stream_of(int64_t id) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, 0), id);
}

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kType> {
  c10::Device getDevice() const override {
    return {kType, 0};
  }

  c10::Device exchangeDevice(c10::Device /*device*/) const override {
    return {kType, 0};
  }

  c10::Stream getStream(c10::Device /*device*/) const noexcept override {
    return stream_of(current);
  }

  c10::Stream exchangeStream(c10::Stream stream) const noexcept override {
    const c10::Stream before = stream_of(current);
    current = stream.id();
    return before;
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex /*index*/, c10::EventFlag /*flag*/)
      const override {
    delete static_cast<int64_t*>(*event);
    *event = new int64_t(stream.id());
  }

  void destroyEvent(void* event, c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<int64_t*>(event);
  }

  void block(void* event, const c10::Stream& stream) const override {
    const std::lock_guard<std::mutex> lock(mutex);
    waits.push_back(stream.id());
    waits.push_back(*static_cast<int64_t*>(event));
  }
};

// ---- Memory

struct HostMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes == 0 ? nullptr : c10::alloc_cpu(bytes);
    return {data, data, &c10::free_cpu, c10::Device(kType, 0)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &c10::free_cpu;
  }

  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
};

HostMemory memory;

// ---- Operators

std::atomic<int64_t> reads{0};
std::atomic<int64_t> kernels{0};
std::atomic<int64_t> jets{0};
std::atomic<int64_t> copies{0};

// The same memory, as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (tensor.is_cpu()) {
    return tensor;
  }
  at::Tensor same =
      at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
  same._set_conj(tensor.is_conj());
  same._set_neg(tensor.is_neg());
  return same;
}

at::Tensor empty(
    c10::SymIntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> /*layout*/,
    std::optional<at::Device> /*device*/,
    std::optional<bool> /*pin_memory*/,
    std::optional<at::MemoryFormat> format) {
  constexpr c10::DispatchKeySet key(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, key, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout> /*layout*/,
    std::optional<at::Device> /*device*/,
    std::optional<bool> /*pin_memory*/) {
  constexpr c10::DispatchKeySet key(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, key, c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  copies += from.device() != to.device() && !non_blocking;
  on_cpu(to).copy_(on_cpu(from), non_blocking);
  return to;
}

const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}

// What the fallback gives back.
at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  at::native::resize_(to, from.sizes());
  on_cpu(to).copy_(from);
  return to;
}

at::Scalar local_scalar(const at::Tensor& tensor) {
  reads += 1;
  return at::_local_scalar_dense(on_cpu(tensor));
}

at::Tensor to_device(const at::Tensor& tensor) {
  at::Tensor result = at::empty(tensor.sizes(), tensor.options().device(kType));
  on_cpu(result).copy_(tensor);
  return result;
}

at::Tensor convolution(
    const at::Tensor& input,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& bias,
    c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding,
    c10::SymIntArrayRef dilation,
    bool transposed,
    c10::SymIntArrayRef output_padding,
    c10::SymInt groups) {
  const auto of_bias = bias.has_value() && bias->defined() ? std::optional(on_cpu(*bias)) : std::nullopt;
  return to_device(
      at::convolution_symint(
          on_cpu(input), on_cpu(weight), of_bias, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad,
    const at::Tensor& input,
    const at::Tensor& weight,
    c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding,
    c10::SymIntArrayRef dilation,
    bool transposed,
    c10::SymIntArrayRef output_padding,
    c10::SymInt groups,
    std::array<bool, 3> mask) {
  const auto channels = c10::SymInt(grad.size(1));
  const auto grads = at::convolution_backward_symint(
      on_cpu(grad),
      on_cpu(input),
      on_cpu(weight),
      c10::SymIntArrayRef(&channels, 1),
      stride,
      padding,
      dilation,
      transposed,
      output_padding,
      groups,
      mask);
  const auto move = [](const at::Tensor& tensor) { return tensor.defined() ? to_device(tensor) : tensor; };
  return {move(std::get<0>(grads)), move(std::get<1>(grads)), move(std::get<2>(grads))};
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(
    const at::Tensor& self,
    c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride,
    std::optional<c10::SymInt> offset) {
  const auto at = offset.has_value() ? std::optional(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), at);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

// What torch counts, or finds the places of, it waits for.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string& name = op.operator_name().name;
  kernels += 1;
  jets += name == "highgrad_ext::compose_jet" || name == "highgrad_ext::compose_jet_backward";
  reads += name == "aten::nonzero" || name == "aten::masked_select" || name == "aten::equal";
  const int64_t before = copies;
  at::native::cpu_fallback(op, stack);
  copies = before; // those of this device's kernels
}

} // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("resize_", TORCH_FN(resize_));
  m.impl("_local_scalar_dense", TORCH_FN(local_scalar));
  m.impl("view", TORCH_FN(view));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("_reshape_alias", TORCH_FN(reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  m.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
  m.impl("convolution_overrideable", TORCH_FN(convolution));
  m.impl("convolution_backward_overrideable", TORCH_FN(convolution_backward));
}

// By its own kernels jets know that a device can.
TORCH_LIBRARY_IMPL(highgrad_ext, PrivateUse1, m) {
  m.impl("compose_jet", torch::CppFunction::makeFromBoxedFunction<&fallback>());
  m.impl("compose_jet_backward", torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

// A copy is what resolves these, and so takes them as they are.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

extern "C" {

void install() {
  static const Guard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(kType)].store(&guard);
  c10::SetAllocator(kType, &memory, 100);
}

void set_stream(int64_t id) {
  current = id;
}

// How many of what there were since the last call.
int64_t take_reads() {
  return reads.exchange(0);
}

int64_t take_copies() {
  return copies.exchange(0);
}

// Calls of all kernels but copies and fills, and of those for jets.
int64_t take_kernels() {
  return kernels.exchange(0);
}

int64_t take_jets() {
  return jets.exchange(0);
}

// As many pairs as fit are written.
int64_t take_waits(int64_t* pairs, int64_t most) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto count = static_cast<int64_t>(waits.size()) / 2;
  for (int64_t i = 0; i < 2 * count && i < 2 * most; ++i) {
    pairs[i] = waits[i];
  }
  waits.clear();
  return count;
}
}
