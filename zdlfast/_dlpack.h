/* How a tensor of another library is read: the part of DLPack 1.3 that zdlfast takes.

   https://dmlc.github.io/dlpack/latest/ says what each field means. A type of tensors has a
   capsule named "dlpack_exchange_api" as its attribute __dlpack_c_exchange_api__; what it holds
   lives as long as the process. */

#ifndef ZDLFAST_DLPACK_H
#define ZDLFAST_DLPACK_H

#include <stdint.h>

enum {
    ZDL_DLPACK_MAJOR = 1,
    ZDL_DLPACK_CPU = 1,
    ZDL_DLPACK_UINT = 1,
    ZDL_DLPACK_FLOAT = 2,
    ZDL_DLPACK_BFLOAT = 4
};

/* Shape and strides lie in the tensor, which keeps them. */
struct zdl_tensor {
    void *data;
    int32_t device_type;
    int32_t device_id;
    int32_t ndim;
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
    int64_t *shape;
    int64_t *strides; /* in elements */
    uint64_t byte_offset;
};

/* 0, or -1 with an exception. The caller has the GIL; nothing of Python is made. */
typedef int (*zdl_read_tensor)(void *object, struct zdl_tensor *tensor);

struct zdl_exchange {
    uint32_t major;
    uint32_t minor;
    struct zdl_exchange *previous; /* of an older major version, or NULL */
    void *allocate;
    void *managed_from_object;
    void *managed_to_object;
    zdl_read_tensor read;
    void *current_stream;
};

#endif
