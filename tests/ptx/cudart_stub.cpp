// Stands in for the CUDA runtime under the launchers that nvcc compiled: instead of starting a kernel, it tells a
// callback which one, how, and with what parameters.

#include <cuda_runtime_api.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace {

using Hook = void (*)(
    const char* kernel,
    const unsigned* grid,
    const unsigned* block,
    size_t shared,
    cudaStream_t stream,
    void** parameters);

Hook hook = nullptr;

std::unordered_map<const void*, std::string>& names() {
  static std::unordered_map<const void*, std::string> map;
  return map;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  CUstream_st* stream;
};
std::vector<Configuration> configurations;

} // namespace

extern "C" {

void set_launch_hook(Hook new_hook) {
  hook = new_hook;
}

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(
    void**,
    const char* host_function,
    char*,
    const char* device_name,
    int,
    uint3*,
    uint3*,
    dim3*,
    dim3*,
    int*) {
  names()[host_function] = device_name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<CUstream_st**>(stream) = last.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(host_function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(
    cudaKernel_t kernel,
    dim3 grid,
    dim3 block,
    void** parameters,
    size_t shared,
    cudaStream_t stream) {
  const unsigned grid_size[] = {grid.x, grid.y, grid.z};
  const unsigned block_size[] = {block.x, block.y, block.z};
  hook(names().at(kernel).c_str(), grid_size, block_size, shared, stream, parameters);
  return cudaSuccess;
}

} // extern "C"
