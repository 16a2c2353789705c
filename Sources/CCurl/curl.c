// See CCurl.h.
#include "CCurl.h"

#include <dlfcn.h>

ksw_curl_calls ksw_curl;

const char *ksw_curl_load(void) {
    if (ksw_curl.easy_init != NULL) return NULL;
    // The name that the linker would have written down. Never unloaded: it has threads and hooks of its own.
    void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return dlerror();
    ksw_curl_calls found;
#define KSW_CURL_FIND(name)                                                                                            \
    if ((found.name = (__typeof__(found.name))dlsym(library, "curl_" #name)) == NULL) return dlerror();
    KSW_CURL_CALLS(KSW_CURL_FIND)
    ksw_curl = found;
    return NULL;
}
