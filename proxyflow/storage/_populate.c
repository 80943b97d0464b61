/* Entering pages into the page table ahead of who reads them.
 *
 * A page of a file that is mapped and in memory costs a fault at its first touch, which for 16 pages
 * at a time takes as long as reading them. Asked for many at once, the kernel needs a quarter of
 * that. Python's mmap.madvise does the same and keeps the interpreter from other threads meanwhile.
 *
 * See "Documentation/admin-guide/mm/pagemap.rst" of the kernel for how a process looks at its page
 * table.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#ifdef __linux__
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of Linux 5.14; older headers lack it, older kernels answer EINVAL. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Whoever maps or unmaps anything waits for one call to end. */
static const size_t AT_ONCE = 16 << 20;

/* A reader has come as far as this if it is going to read everything. */
static const size_t FAR = 512 << 10;

static int is_present(int pagemap, const char *at, long page)
{
    uint64_t entry;
    off_t where = (off_t)((uintptr_t)at / (size_t)page * sizeof entry);
    return pread(pagemap, &entry, sizeof entry, where) == sizeof entry && entry >> 63;
}

/* Look further and further from both ends: readers begin at one of them, or are everywhere. */
static int is_read(const char *start, size_t nbytes)
{
    long page = sysconf(_SC_PAGESIZE);
    int found = 0, pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return 0;
    for (size_t at = FAR; at < nbytes && !found; at *= 2)
        found = is_present(pagemap, start + at, page) ||
                is_present(pagemap, start + nbytes - at, page);
    close(pagemap);
    return found;
}

static int populate_range(char *start, size_t nbytes)
{
    for (size_t at = 0; at < nbytes; at += AT_ONCE) {
        size_t length = nbytes - at < AT_ONCE ? nbytes - at : AT_ONCE;
        while (madvise(start + at, length, MADV_POPULATE_READ) != 0)
            if (errno != EAGAIN && errno != EINTR)
                return 0;
    }
    return 1;
}

static PyObject *populate_if_read(PyObject *Py_UNUSED(module), PyObject *mapping)
{
    Py_buffer view;
    int done;
    if (PyObject_GetBuffer(mapping, &view, PyBUF_SIMPLE) != 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = is_read(view.buf, (size_t)view.len) && populate_range(view.buf, (size_t)view.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return PyBool_FromLong(done);
}

static PyMethodDef methods[] = {
    {"populate_if_read", populate_if_read, METH_O,
     "populate_if_read(mapping, /)\n--\n\n"
     "Enter all pages of a mapping into the page table if somebody has begun to read it; return\n"
     "whether that was done. Other threads go on meanwhile."},
    {NULL, NULL, 0, NULL},
};

#else

static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};

#endif

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxyflow.storage._populate",
    .m_doc = "Entering pages into the page table ahead of who reads them; see populating.py.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__populate(void)
{
    return PyModuleDef_Init(&definition);
}
