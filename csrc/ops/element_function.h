#pragma once

// Functions of one element, shared word for word by the CPU, where an element is a vector of neighbouring ones that the
// compiler keeps in registers, and by CUDA, where it is a thread's. Inlined and unrolled, so that arrays of a constant
// size are registers.

#if defined(__CUDACC__)
#define HIGHGRAD_INLINE __device__ __forceinline__
#define HIGHGRAD_UNROLL _Pragma("unroll")
#else
// Vectors are passed between functions that are always inlined, so it does not matter how a call would pass them.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define HIGHGRAD_INLINE inline __attribute__((always_inline))
#define HIGHGRAD_UNROLL _Pragma("GCC unroll 8")
#endif
