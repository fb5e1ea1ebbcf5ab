/* The HOME of a process that was given none, as Docker sets it. */
#ifndef CONTREE_HOME_H
#define CONTREE_HOME_H

#include <sys/types.h>

/* Returns "HOME=" with the directory of the first entry for uid in /etc/passwd, "/" if there is none.
 * In static storage. The file is the image's, so anything may be in its place. */
char *home_variable(uid_t uid);

#endif
