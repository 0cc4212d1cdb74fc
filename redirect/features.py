"""placeholder during set-up bring-up"""
