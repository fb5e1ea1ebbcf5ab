/* The smallest test vocabulary: CHECK stops the program, naming the place and what was expected. */
#ifndef CONTREE_CHECK_H
#define CONTREE_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

#endif
