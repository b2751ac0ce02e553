"""
Calls in the midst of others.

Between any two steps of a thread, the garbage collector may run a finalizer
in it, or Python a signal handler, also while the thread holds a lock. To wait
for that lock would be to wait for ever, and to go on without it to find a
state that's halfway between two. So the locks know their holder.
"""


def is_inside(lock):
    """
    Return whether this thread holds a threading.RLock: whoever asks has
    interrupted it then. threading.Condition asks its lock the same.
    """
    return lock._is_owned()
