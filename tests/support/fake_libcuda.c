/* A CUDA driver that is none, with the calls that pipeline/devices/driver.py makes: device memory is the host's.
   The types are those of cuda.h, so that the arguments and the struct are checked as the real library reads them. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult, CUdevice;
typedef void *CUcontext, *CUstream, *CUarray;
typedef unsigned long long CUdeviceptr;
typedef enum { HOST = 1, DEVICE = 2 } CUmemorytype;
typedef struct {
    size_t srcXInBytes, srcY;
    CUmemorytype srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    CUarray srcArray;
    size_t srcPitch, dstXInBytes, dstY;
    CUmemorytype dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    CUarray dstArray;
    size_t dstPitch, WidthInBytes, Height;
} CUDA_MEMCPY2D;

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };
/* High addresses: an argument that was cut to 32 bits is seen. */
static char *const CONTEXT = (char *)0x7f00aabbcc00, *const STREAM = (char *)0x7f11aabbcc00;
static unsigned flags;
static int retained;
static _Thread_local int pushed;

CUresult cuInit(unsigned f) { return f ? INVALID_VALUE : OK; }
CUresult cuGetErrorName(CUresult r, const char **s) {
    *s = r == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : r == INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE" : NULL;
    return *s ? OK : INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult r, const char **s) {
    *s = r == OUT_OF_MEMORY ? "out of memory" : NULL;
    return *s ? OK : INVALID_VALUE;
}
CUresult cuDeviceGetCount(int *n) { *n = 1; return OK; }
CUresult cuDeviceGet(CUdevice *d, int n) { *d = 40 + n; return n == 0 ? OK : INVALID_DEVICE; }
CUresult cuDeviceGetName(char *s, int len, CUdevice d) { strncpy(s, "Stub", len); return d == 40 ? OK : INVALID_DEVICE; }
CUresult cuDeviceTotalMem_v2(size_t *n, CUdevice d) { *n = 6ull << 30; return d == 40 ? OK : INVALID_DEVICE; }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *active) {
    *f = flags;
    *active = retained > 0;
    return d == 40 ? OK : INVALID_DEVICE;
}
CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice d, unsigned f) { flags = f; return d == 40 ? OK : INVALID_DEVICE; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
    *c = CONTEXT;
    retained++;
    return d == 40 && flags == 4 ? OK : INVALID_DEVICE;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) { retained--; return d == 40 ? OK : INVALID_DEVICE; }
CUresult cuCtxPushCurrent_v2(CUcontext c) { pushed++; return c == CONTEXT ? OK : INVALID_CONTEXT; }
CUresult cuCtxPopCurrent_v2(CUcontext *c) { *c = CONTEXT; return pushed-- > 0 ? OK : INVALID_CONTEXT; }
CUresult cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 5ull << 30; *total = 6ull << 30; return pushed ? OK : INVALID_CONTEXT; }
CUresult cuStreamCreate(CUstream *s, unsigned f) { *s = STREAM; return f == 0 && pushed ? OK : INVALID_CONTEXT; }
CUresult cuStreamDestroy_v2(CUstream s) { return s == STREAM ? OK : INVALID_VALUE; }
CUresult cuStreamSynchronize(CUstream s) { return s == STREAM ? OK : INVALID_VALUE; }
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n) {
    if (n > 1ull << 32) return OUT_OF_MEMORY;
    *p = (CUdeviceptr)malloc(n);
    return pushed ? OK : INVALID_CONTEXT;
}
CUresult cuMemFree_v2(CUdeviceptr p) { free((void *)p); return OK; }
CUresult cuMemHostRegister_v2(void *p, size_t n, unsigned f) { return p && n && f == 0 ? OK : INVALID_VALUE; }
CUresult cuMemHostUnregister(void *p) { return p ? OK : INVALID_VALUE; }
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *c, CUstream s) {
    if (s != STREAM || c->srcXInBytes || c->srcY || c->dstXInBytes || c->dstY || c->srcArray || c->dstArray) return INVALID_VALUE;
    if (c->WidthInBytes > c->srcPitch || c->WidthInBytes > c->dstPitch) return INVALID_VALUE;
    const char *from = c->srcMemoryType == DEVICE ? (const char *)c->srcDevice : c->srcHost;
    char *to = c->dstMemoryType == DEVICE ? (char *)c->dstDevice : c->dstHost;
    for (size_t row = 0; row < c->Height; row++) memcpy(to + row * c->dstPitch, from + row * c->srcPitch, c->WidthInBytes);
    return OK;
}
