"""Images that are not files here: on web servers (http, https) and in object stores (s3 and the like).

An image is copied to a file without a name, in pieces, and is from then on a file like any other: a small one in
memory, a larger one in the folder for temporary files. So memory does not grow with it, whether it is whole is known
before anything is sent, and what is left by a process that was killed is nothing. :mod:`archsync.net.images` is the
door; nothing else opens locations.

    access.py     what is needed of Airflow: connections and file systems
    copying.py    copies an image, again from where it broke off, and says what went wrong
    web.py        GET, of a file or as DICOMweb (WADO-RS)
    multipart.py  the one part of such an answer
    objects.py    object stores, through fsspec
    ahead.py      has the next ones copied while others are sent
"""
