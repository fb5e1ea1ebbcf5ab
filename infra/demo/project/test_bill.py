"""What `split` promises, over many bills. The demo runs it inside the guest."""

# ruff: noqa: PT009 - the guest has unittest only

import unittest

from bill import split


class SplitTest(unittest.TestCase):
    def test_shares_add_up_to_the_bill(self) -> None:
        for total_cents in range(500):
            for people in range(1, 12):
                self.assertEqual(sum(split(total_cents, people)), total_cents)

    def test_nobody_pays_over_a_cent_more_than_another(self) -> None:
        for total_cents in range(500):
            for people in range(1, 12):
                shares = split(total_cents, people)
                self.assertLessEqual(max(shares) - min(shares), 1)


if __name__ == "__main__":
    unittest.main()
